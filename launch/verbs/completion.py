"""phalanx completion bash|zsh"""

import contextlib
import io
import re
from collections.abc import Sequence

from phalanx.configs.errors import ExitCode
from phalanx.configs.schema import keys
from phalanx.launch.arguments import Parser
from phalanx.launch.verbs import VERBS
from phalanx.launch.verbs.checkpoint import ACTIONS

_SCRIPT = """\
# Completion of phalanx, for {shell}.
{first}_phalanx() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}" options=""
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    fi
    if [[ $verb == checkpoint ]]; then
        if ((COMP_CWORD == 2)); then
            COMPREPLY=($(compgen -W "{of_checkpoint}" -- "$word"))
            return
        fi
        verb="checkpoint ${{COMP_WORDS[2]}}"
    fi
    case "$verb" in
{cases}
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    elif [[ $word == [a-z]* && ${{COMP_WORDS[COMP_CWORD-1]}} != "=" ]]; then
        COMPREPLY=($(compgen -S = -W "{keys}" -- "$word") $(compgen -f -- "$word"))
        [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2> /dev/null
    fi
}}
complete -o default -F _phalanx phalanx
"""
_ZSH = "autoload -Uz bashcompinit compinit\ncompinit\nbashcompinit\n"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx completion",
        description="Prints a script for the shell, which completes verbs, their options, and keys of recipes.",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to print it for")
    given = parser.parse_args(arguments)
    print(script(given.shell), end="")
    return ExitCode.DONE


def script(shell: str) -> str:
    """The completion script of a shell, `bash` or `zsh`."""
    verbs = [(name,) for name in VERBS if name != "checkpoint"] + [("checkpoint", name) for name in ACTIONS]
    cases = "\n".join(f'        "{" ".join(verb)}") options="{" ".join(options(verb))}" ;;' for verb in verbs)
    return _SCRIPT.format(
        shell=shell,
        first=_ZSH if shell == "zsh" else "",
        verbs=" ".join(VERBS),
        of_checkpoint=" ".join(ACTIONS),
        cases=cases,
        keys=" ".join(key.name for key in keys()),
    )


def options(verb: Sequence[str]) -> list[str]:
    """The options that the help of a verb names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        VERBS[verb[0]].run([*verb[1:], "--help"])
    before_examples, _, _ = text.getvalue().partition("\nexamples:")
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", before_examples)))
