"""Deterministic kernels: optional on GPUs, and slower."""

import os

import torch


def apply(wanted: bool) -> None:
    """Refuses nondeterministic kernels, or lets torch choose the fastest."""
    if wanted:
        # cuBLAS reads it when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
