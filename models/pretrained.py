"""Weights that libraries publish: torchvision's files, as torch.hub keeps them; timm's, as the Hugging Face hub does."""

import fcntl
import os
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision

from phalanx.models import registry, timm_networks
from phalanx.models.foreign.source import BadWeights


def file(name: str, weights: str) -> Path:
    """A file of published weights, fetched if it is not here yet.

    Of several processes on a node one fetches it, and the others wait. What is fetched must have the hash in its name; what is
    there already is taken as it is, as torch.hub does.

    Args:
        name: of the network.
        weights: `torchvision`, `torchvision/VERSION` or `timm`.

    Raises:
        BadOption: if there are no such weights.
        BadWeights: if they cannot be downloaded.
    """
    version = registry.get(name).weights_version(weights)
    if timm_networks.is_one(name):
        return _of_timm(name, weights)
    url: str = torchvision.models.get_model_weights(name)[version].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                torch.hub.download_url_to_file(url, str(path), _hash_in(path.name), progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        why = str(getattr(error, "reason", error))
        raise BadWeights(
            f"model.weights={weights}: {url} cannot be downloaded ({why}). Download it where there is a network, and put it at "
            f"{path} (the environment variable TORCH_HOME moves that folder), or name your own file."
        ) from None
    return path


def _hash_in(name: str) -> str:
    """The first digits of a file's SHA-256, as in `resnet18-f37072fd.pth`."""
    return name.rpartition("-")[2].partition(".")[0]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this node at a time. The file of the lock stays, for those who wait for it."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _of_timm(name: str, weights: str) -> Path:
    try:
        return timm_networks.weights_file(name)
    except LookupError as error:
        raise BadWeights(f"model.weights={weights}: {error.args[0]}. Remove the key, or name a file.") from None
    except OSError as error:
        why = str(error).splitlines()[0].rstrip(".")
        cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise BadWeights(
            f"model.weights={weights}: the weights of {name} cannot be fetched ({why}). Fetch them "
            f"where there is a network into {cache}, or name your own file."
        ) from None
