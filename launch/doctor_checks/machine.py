"""This machine: GPUs and how they are linked, cores, shared memory, open files."""

import os
import resource
import shutil
from collections.abc import Iterator
from itertools import combinations

from phalanx.dist.processes.gpus import count_gpus
from phalanx.launch.doctor_checks.diagnosis import Diagnosis

_SHARED_GB, _FILES = 1.0, 4096


def machine() -> Iterator[Diagnosis]:
    yield from _gpus()
    usable, cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if usable < cores:
        said = f"{usable} of {cores} cores may be used"
        yield Diagnosis("cores", "yellow", said, "Ask for more by slurm.cpus_per_gpu, or start without taskset.")
    else:
        yield Diagnosis("cores", "green", f"{cores} cores")
    yield _shared_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft} open files at once, at most {hard}"
    if hard < _FILES:
        yield Diagnosis(
            "open files", "yellow", said, f"Ask for a hard limit of {_FILES}: loader processes pass batches as files."
        )
    else:
        yield Diagnosis("open files", "green", said)


def _gpus() -> Iterator[Diagnosis]:
    import torch

    there = count_gpus()
    if not there:
        yield Diagnosis("GPUs", "yellow", "there is none", "Training works on the CPU, slowly. With a GPU: check nvidia-smi.")
        return
    if not torch.cuda.is_available():
        said = f"{there} are there, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use them"
        yield Diagnosis("GPUs", "red", said, "Install a driver for that CUDA, or a torch built for the driver's.")
        return
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    listed = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in devices)
    yield Diagnosis(
        "GPUs", "green", f"{listed}; CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    )
    if len({one.name for one in devices}) > 1:
        yield Diagnosis(
            "equal GPUs", "yellow", "they differ", "All wait for the slowest: choose equal ones by CUDA_VISIBLE_DEVICES."
        )
    apart = [pair for pair in combinations(range(len(devices)), 2) if not torch.cuda.can_device_access_peer(*pair)]
    if apart:
        said = f"{len(apart)} pairs of GPUs do not reach each other's memory, such as {apart[0][0]} and {apart[0][1]}"
        yield Diagnosis(
            "links", "yellow", said, "Gradients go through the host's memory, which is slower; see nvidia-smi topo -m."
        )
    elif len(devices) > 1:
        yield Diagnosis("links", "green", "every GPU reaches every other one's memory")


def _shared_memory() -> Diagnosis:
    try:
        free = shutil.disk_usage("/dev/shm").free / 2**30
    except OSError as error:
        said = f"/dev/shm: {error.strerror}"
        return Diagnosis(
            "shared memory", "red", said, "Mount it: loader processes pass batches through it. Or set data.workers=0."
        )
    said = f"{free:.1f} GiB free in /dev/shm"
    if free < _SHARED_GB:
        remedy = "Give the container more (docker run --shm-size=8g), or set data.workers=0."
        return Diagnosis("shared memory", "yellow", said, remedy)
    return Diagnosis("shared memory", "green", said)
