"""Tests of the room `slurm`."""
