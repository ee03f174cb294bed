"""phalanx checkpoint ls | verify | consolidate | diff: which checkpoints are intact, one file of one, how two differ."""

import difflib
from collections.abc import Sequence

from phalanx.configs.errors import ExitCode, UserError
from phalanx.launch.verbs import Verb

ACTIONS = {
    "ls": Verb(
        "lists the checkpoints of a run: step, size, strategy, metrics", "phalanx.launch.verbs.checkpoint_verbs.checkpoint_ls"
    ),
    "verify": Verb(
        "reads every byte and compares it with its checksum", "phalanx.launch.verbs.checkpoint_verbs.checkpoint_verify"
    ),
    "consolidate": Verb(
        "writes one safetensors file of weights", "phalanx.launch.verbs.checkpoint_verbs.checkpoint_consolidate"
    ),
    "diff": Verb(
        "shows how two checkpoints or files of weights differ", "phalanx.launch.verbs.checkpoint_verbs.checkpoint_diff"
    ),
}


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return ExitCode.DONE if arguments else ExitCode.BAD_INPUT
    action = arguments[0]
    if action not in ACTIONS:
        near = difflib.get_close_matches(action, ACTIONS, n=1, cutoff=0.5)
        hint = f"Did you mean `phalanx checkpoint {near[0]}`?" if near else f"There are: {', '.join(ACTIONS)}."
        raise UserError(f"phalanx checkpoint does not know {action!r}. {hint}")
    return ACTIONS[action].run(arguments[1:])


def _help() -> str:
    width = max(map(len, ACTIONS))
    listed = "\n".join(f"  {name:{width}}  {action.meaning}" for name, action in ACTIONS.items())
    return f"usage: phalanx checkpoint ACTION ...\n\n{listed}\n\n`phalanx checkpoint ACTION --help` says more."
