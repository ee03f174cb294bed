"""Everything that knows about ranks: environment, strategy, BatchNorm, sampling, checkpoints, signals."""
