"""Everything that knows about ranks: environment, strategy, precision, BatchNorm, sampling, reductions, checkpoints, signals."""
