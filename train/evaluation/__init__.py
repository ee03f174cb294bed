"""Evaluation over all ranks, of a run or of checkpoints, and prediction."""
