"""Which samples a step takes, how they are cut into micro-batches, and which rank runs which. Pure functions of the seed."""
