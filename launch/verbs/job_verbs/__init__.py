"""The verbs of a run's job on SLURM."""
