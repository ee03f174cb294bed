"""Parameters matched by shell patterns of their names."""

import difflib
import fnmatch
from collections.abc import Collection

from phalanx.configs.errors import UserError


def match_pattern(key: str, pattern: str, names: Collection[str]) -> list[str]:
    """The names that a pattern matches.

    Args:
        key: the recipe's key, for the message.

    Raises:
        UserError: if it matches none, with the nearest name.
    """
    if found := fnmatch.filter(names, pattern):
        return found
    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.4) or [next(iter(names))]
    kind = "layer" if key == "model.freeze_statistics" else "parameter"
    raise UserError(f"{key}={pattern}: no {kind} has such a name. There is, for example, {near[0]}.", shared=True)
