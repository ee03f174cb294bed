"""The room for SLURM. For now a virtual cluster to try and to test on: `virtual_cluster/start.sh`."""
