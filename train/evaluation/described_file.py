"""A file of weights that is described: by `phalanx export` in its header, by `checkpoint consolidate` in the JSON beside it."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.tools.consolidate import description_file
from phalanx.dist.storage.durable_files import read_json_object
from phalanx.train.setup.recorded import Recorded

HEADER = "phalanx"  # the entry of the header's metadata


def described(file: Path) -> tuple[RunConfig, Recorded]:
    """The recipe of a file of weights, and its training data.

    Raises:
        UserError: if it is not described, or by an older version.
    """
    beside = description_file(file)
    try:
        found = _of_header(file) or read_json_object(beside)
        config = RunConfig.model_validate({"name": file.stem, **found["recipe"]})
        return config, TypeAdapter(Recorded).validate_python(found["data"])
    except FileNotFoundError:
        raise UserError(f"{file}: {beside.name}, which describes it, is not beside it. Copy both, or give the run.") from None
    except (OSError, KeyError, ValueError, ValidationError):
        raise UserError(f"{beside}: this does not describe a network with its data. Write both files anew.") from None


def _of_header(file: Path) -> dict[str, Any] | None:
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(HEADER)
    except SafetensorError:
        return None  # reported where its tensors are read
    found: Any = None if text is None else json.loads(text)
    return found if isinstance(found, dict) else None
