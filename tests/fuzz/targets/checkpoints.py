"""Checkpoints: manifests whose checksum is right but whose content is not, headers of shards, bytes of both."""

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from hypothesis import strategies as st

from tests.fuzz import mutations
from tests.fuzz.case import Case, Content
from tests.fuzz.law import Broken, command
from tests.fuzz.targets.configs import DIGITS
from tests.fuzz.targets.target import Target

_MANIFEST, _SHARD = "manifest.json", "shards/rank-00000.safetensors"


@cache
def _made() -> tuple[dict[str, Any], bytes]:
    """The body of a small manifest, and its shard."""
    from phalanx.dist.checkpoint import manifest, shard_file
    from phalanx.dist.checkpoint.layout import Range

    tensors = {"layer.weight": numpy.arange(12, dtype=numpy.float32).reshape(3, 4), "layer.bias": numpy.ones(3, numpy.float32)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard")
        segments = [shard_file.Segment(n, "F32", t.shape, memoryview(t).cast("B")) for n, t in tensors.items()]
        described = shard_file.write(path, segments).to_json()
        content = path.read_bytes()
    stored = {
        name: manifest.StoredTensor("model", "F32", t.shape, (manifest.ShardRun(0, Range(0, t.size), t.size),), [_SHARD])
        for name, t in tensors.items()
    }
    made = manifest.Manifest(
        4, 32, 1, "ddp", "0123456789abcdef", {"torch": "2.14"}, {"lr": 0.1, "scale": float("nan")}, {_SHARD: described}, stored,
        {"val/top1": 0.5},
    )  # fmt: skip
    body = json.loads(manifest.dumps(made))
    del body["xxh3_64"]
    return body, content


def _signed(body: Any) -> bytes:
    """With the checksum that makes it genuine, where JSON has words for all in it."""
    from phalanx.dist.checkpoint import manifest

    if not isinstance(body, dict):
        return json.dumps(body).encode()
    try:
        return json.dumps(body | {"xxh3_64": manifest._sum(body)}).encode()
    except (ValueError, TypeError, RecursionError):
        return json.dumps(body).encode()


def _with_shard(body: Any, shard: bytes) -> Any:
    """A manifest that vouches for a shard as it is."""
    import xxhash

    told = body["files"][_SHARD] | {"size": len(shard), "xxh3_64": [xxhash.xxh3_64(shard).hexdigest()]}
    return body | {"files": {_SHARD: told}}


def checkpoint_files() -> dict[str, Content]:
    """A whole checkpoint."""
    body, shard = _made()
    return {_MANIFEST: _signed(body), _SHARD: shard}


@cache
def _config() -> bytes:
    from phalanx.configs.load import load, to_yaml

    return to_yaml(load([DIGITS])).encode()


@st.composite
def _manifests(draw: mutations.Draw) -> Case:
    body, shard = _made()
    how = draw(st.sampled_from(["tree", "tree", "tree", "header", "header", "bytes", "shard", "files"]))
    files: dict[str, Content] = {_MANIFEST: _signed(body), _SHARD: shard}
    if how == "tree":
        files[_MANIFEST] = _signed(mutations.tree(draw, body))
    elif how == "header":
        length = struct.unpack("<Q", shard[:8])[0]
        header = json.dumps(mutations.tree(draw, json.loads(shard[8 : 8 + length]))).encode()
        told = draw(st.sampled_from([len(header)] * 4 + [0, 2**63, len(header) - 1, 10**6]))
        changed = struct.pack("<Q", told) + header + shard[8 + length :]
        files |= {_SHARD: changed, _MANIFEST: _signed(_with_shard(body, changed))}
    elif how == "bytes":
        files[_MANIFEST] = mutations.raw(draw, _signed(body), head=400)
    elif how == "shard":
        changed = mutations.raw(draw, shard, head=200)
        files |= {_SHARD: changed} | ({_MANIFEST: _signed(_with_shard(body, changed))} if draw(st.booleans()) else {})
    else:
        files = mutations.files(draw, files)
    run: dict[str, Content] = {"run.json": b'{"run": "a"}', "config.yaml": _config()}
    return Case("checkpoints", run | {f"checkpoints/step-00000004/{name}": content for name, content in files.items()})


def _door(case: Case, _: Path) -> None:
    """Verified, listed, compared, and read whole: what passes the checks is read to its last number."""
    from phalanx.dist.checkpoint import manifest, reader
    from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
    from phalanx.dist.checkpoint.reader import Readers

    path = Path("checkpoints/step-00000004")
    command(["checkpoint", "ls", "."])
    _, skipped = reader.newest_valid(Path("checkpoints"))
    if any(not problem.strip() for _, problem in skipped):
        raise Broken("passed over without a word")
    stored = manifest.read(path)
    command(["checkpoint", "verify", "."])
    command(["checkpoint", "verify", ".", "--json"])
    command(["checkpoint", "diff", str(path), str(path)], fine=(0, 1))
    with Readers(path, stored) as readers:
        for name, tensor in stored.tensors.items():
            content = bytearray(tensor.elements * ITEM_SIZE[tensor.dtype])
            readers.fill(name, Range(0, tensor.elements), memoryview(content))
    command(["checkpoint", "consolidate", ".", "-o", "out.safetensors"])


def _refusals() -> tuple[type[Exception], ...]:
    from phalanx.configs.errors import UserError
    from phalanx.dist.checkpoint.manifest import BrokenCheckpoint

    return UserError, BrokenCheckpoint


def _prepare() -> None:
    import phalanx.launch.verbs.checkpoint
    import phalanx.launch.verbs.checkpoint_verbs.checkpoint_consolidate
    import phalanx.launch.verbs.checkpoint_verbs.checkpoint_diff
    import phalanx.launch.verbs.checkpoint_verbs.checkpoint_ls
    import phalanx.launch.verbs.checkpoint_verbs.checkpoint_verify  # noqa: F401


_MEANING = "manifests with a right checksum and wrong content, headers and bytes of shards"
TARGETS = [Target("checkpoints", _MEANING, 60, _manifests, _door, _refusals, _prepare)]
