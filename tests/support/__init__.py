"""What only tests share: running commands, a virtual SLURM cluster. Ranks and forks are in `benchmarks/support/`."""
