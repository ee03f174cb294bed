"""BatchNorm over ranks: running statistics per micro-batch, shared statistics, and who shares them."""
