"""The `phalanx` command. Imports only what the verb needs; `phalanx --help` and errors in a recipe import no torch."""

import sys
from collections.abc import Callable, Sequence

from phalanx import __version__
from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.system_errors import trouble
from phalanx.dist.processes import output
from phalanx.launch.verbs import VERBS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit code."""
    output.keep_steady()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
    except SystemExit as end:  # argparse's, after --help
        return _with_output(end.code if isinstance(end.code, int) else ExitCode.DONE)
    return code if given[:1] in _TRAINING else _with_output(code)


_TRAINING = (["train"], ["resume"])  # their results are files


def _with_output(code: int) -> int:
    """The exit code of a verb whose result is its output: it fails if that was lost."""
    return code or (ExitCode.FAILED if output.reports_lost_output() else ExitCode.DONE)


def _run(given: Sequence[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return ExitCode.DONE if given else ExitCode.BAD_INPUT
    if given[0] == "--version":
        print(f"phalanx {__version__}")
        return ExitCode.DONE
    try:
        return _verb(given[0])(given[1:])
    except UserError as error:
        print("\n".join(f"phalanx: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return ExitCode.BAD_INPUT
    except OSError as error:
        if (sentence := trouble(error)) is None:
            raise
        print(f"phalanx: {sentence}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except KeyboardInterrupt:
        print("phalanx: interrupted", file=sys.stderr)
        return ExitCode.FAILED


def _verb(name: str) -> Callable[[Sequence[str]], int]:
    if name in VERBS:
        return VERBS[name].run
    import difflib

    near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.5)
    hint = f"Did you mean `phalanx {near[0]}`?" if near else f"There are: {', '.join(VERBS)}."
    raise UserError(f"there is no verb {name!r}. {hint}")


def _help() -> str:
    width = max(map(len, VERBS))
    listed = "\n".join(f"  {name:{width}}  {verb.meaning}" for name, verb in VERBS.items())
    return (
        "usage: phalanx VERB CONFIG.yaml [MORE.yaml ...] [key=value ...]\n\n"
        "Distributed training of vision models: an experiment is not its hardware.\n\n"
        f"{listed}\n\n`phalanx VERB --help` says more. "
        "Exit codes: 0 done, 1 failed, 2 bad input, 75 stopped early with a checkpoint."
    )


if __name__ == "__main__":
    sys.exit(main())
