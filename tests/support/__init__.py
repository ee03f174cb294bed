"""What tests share: rank pools, running commands, a virtual SLURM cluster."""
