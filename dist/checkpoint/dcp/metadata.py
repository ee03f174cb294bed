"""DCP's `.metadata`, which is a pickle, read without unpickling it.

torch's safe reader (`weights_only=True`) builds only allowed classes, and knows only the opcodes of an older protocol than DCP
writes. So the pickle is parsed by `pickletools`, which executes nothing, written again in that protocol, and given to torch's
reader with DCP's own classes as the only ones besides numbers and strings.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

_CLASSES: tuple[type, ...] = (
    metadata.Metadata,
    metadata.MetadataIndex,
    metadata.StorageMeta,
    metadata.TensorStorageMetadata,
    metadata.BytesStorageMetadata,
    metadata.ChunkStorageMetadata,
    metadata.TensorProperties,
    metadata._MEM_FORMAT_ENCODING,
    filesystem._StorageInfo,
)
# The metadata holds the path that was saved to, by the name of its class on that machine.
_PATHS = [f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")]
_ALLOWED: dict[str, Callable[..., Any]] = {f"{c.__module__}.{c.__qualname__}": c for c in _CLASSES}
_ALLOWED |= dict.fromkeys(_PATHS, PurePosixPath)
# torch's reader allows these by itself.
_KNOWN = {"torch.Size", "torch.serialization._get_layout"}
_KNOWN |= {f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

_SAME = {
    *("MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("NEWOBJ", "REDUCE", "BUILD", "STOP"),
}
_OMITTED = {"PROTO", "FRAME"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE"}


def read(path: Path) -> Metadata:
    """The metadata of a folder.

    Raises:
        ValueError: if it needs anything that DCP does not write.
    """
    archive = io.BytesIO()  # in the form of torch.save
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", in_protocol_2(path.read_bytes()))
        file.writestr("archive/version", "3\n")
    archive.seek(0)
    with torch.serialization.safe_globals([(value, name) for name, value in _ALLOWED.items()]):
        found = torch.load(archive, map_location="cpu", weights_only=True)
    if not isinstance(found, Metadata):
        raise ValueError(f"its metadata is a {type(found).__name__}")
    return found


def in_protocol_2(pickled: bytes) -> bytes:
    """A pickle of protocol 4 or 5 in the opcodes of protocol 2; nothing in it is looked up or run.

    Raises:
        ValueError: on an opcode or a class that DCP's metadata does not need.
    """
    written: list[bytes | str] = []
    # Protocol 4 takes the name of a class from the stack, protocol 2 has it in the opcode. So strings are not memoized, but
    # written out wherever they are used, and the two before such an opcode are dropped.
    strings: dict[int, str] = {}
    memorised = 0
    operations = list(pickletools.genops(pickled))
    ends = [position for _, _, position in operations[1:]] + [len(pickled)]
    for (opcode, argument, position), end in zip(operations, ends, strict=True):
        if opcode.name in _SAME:
            written.append(pickled[position or 0 : end])
        elif opcode.name in _STRINGS:
            written.append(str(argument))
        elif opcode.name == "MEMOIZE":
            last = written[-1]
            if isinstance(last, str):
                strings[memorised] = last
            else:
                written.append(pickle.LONG_BINPUT + struct.pack("<I", memorised))
            memorised += 1
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            known = strings.get(int(argument or 0))
            written.append(pickle.LONG_BINGET + struct.pack("<I", argument) if known is None else known)
        elif opcode.name == "STACK_GLOBAL":
            written.append(_global(written.pop(-2), written.pop()))
        elif opcode.name not in _OMITTED:
            raise ValueError(f"its metadata has the opcode {opcode.name}")
    return pickle.PROTO + b"\x02" + b"".join(_text(w) if isinstance(w, str) else w for w in written)


def _global(module: bytes | str, name: bytes | str) -> bytes:
    wanted = f"{module!s}.{name!s}"
    if wanted not in _ALLOWED and wanted not in _KNOWN:
        raise ValueError(f"its metadata asks for {wanted}")
    return pickle.GLOBAL + f"{module!s}\n{name!s}\n".encode()


def _text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content
