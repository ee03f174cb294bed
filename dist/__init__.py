"""Everything that knows of ranks: environment, strategy, BatchNorm, sampling, checkpoints, signals."""
