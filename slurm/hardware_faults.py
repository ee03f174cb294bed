"""Which messages blame a GPU, its links or its node rather than the program: another node may do better. Pure functions.

The Xid errors of the kernel's log reach a program as errors of CUDA. Xid 48, 63, 64, 94 and 95 (memory errors that ECC could
not correct, and what follows) are "uncorrectable ECC error"; 74 is NVLink's; after 79 the GPU is gone
(https://docs.nvidia.com/deploy/xid-errors/). Errors that are mostly a program's stay its own: "an illegal memory access",
"device-side assert triggered" and "unspecified launch failure" (Xid 13, 31, 43), and memory that runs out.
"""

import re

_HARDWARE = re.compile(
    r"(?i)uncorrectable (ECC|NVLink) error[ \w]*"
    r"|invalid access of peer GPU memory over nvlink or a hardware error"  # cudaErrorContained
    r"|CUDA-capable device\(s\) is/are busy or unavailable"  # another process has it, or it is being reset
    r"|system not yet initialized"  # the node's fabric manager does not run
    r"|(CUDA error: |CUDA failure \d* ?')unknown error"
    r"|finds no GPU, though CUDA_VISIBLE_DEVICES promises it one"  # dist/comm/device_choice.py
    r"|GPU (is lost|has fallen off the bus)"
    r"|NET/IB\b.*\bfatal event: .*"  # NCCL: this node's network adapter
    r"|\bXid \([^)\n]*\): (48|63|64|74|79|94|95)\b"
)
_PROGRAM = re.compile(r"(?i)device-side assert triggered|an illegal memory access was encountered|CUDA( error:)? out of memory")


def hardware_fault(text: str) -> str | None:
    """The words in a failure's message that blame the hardware, if any."""
    return _words(_HARDWARE, text)


def program_fault(text: str) -> str | None:
    """The words in a rank's last lines that blame its program, if any: it would fail again."""
    return _words(_PROGRAM, text)


def _words(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found and " ".join(found[0].split())
