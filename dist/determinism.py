"""Kernels on GPUs: deterministic ones, which are slower, or the fastest."""

import os

import torch


def apply(wanted: bool, sizes_vary: bool = False) -> None:
    """Refuses nondeterministic kernels, or lets torch choose the fastest.

    Args:
        sizes_vary: whether inputs are seldom of one size twice: cuDNN tries its kernels for every new one.
    """
    if wanted:
        # cuBLAS reads it when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not wanted and not sizes_vary
    torch.use_deterministic_algorithms(wanted)
