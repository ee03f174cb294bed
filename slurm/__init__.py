"""Jobs on SLURM: submission, checks, requeueing, status and logs. `virtual_cluster/` starts a SLURM to test on."""
