"""What a person sees who asks a verb for help, and what the shell completes."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from phalanx.configs.schema import keys
from phalanx.launch.examples import EXAMPLES
from phalanx.launch.verbs import VERBS
from phalanx.launch.verbs.checkpoint import ACTIONS
from phalanx.launch.verbs.completion import options, script
from tests.support.running import ROOT

COMMANDS = [name for name in VERBS if name != "checkpoint"] + [f"checkpoint {name}" for name in ACTIONS]


def helped(command: str) -> str:
    text = io.StringIO()
    verb, *more = command.split()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        VERBS[verb].run([*more, "--help"])
    return text.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_ends_with_examples_of_what_it_describes(command: str) -> None:
    text = helped(command)
    before, _, examples = text.partition("\nexamples:\n")
    lines = examples.splitlines()
    assert [line.strip() for line in lines] == list(EXAMPLES[f"phalanx {command}"])
    for line in lines:
        words = shlex.split(line, comments=False)
        words = words[: words.index(">")] if ">" in words else words
        assert words[: 1 + len(command.split())] == ["phalanx", *command.split()]
        given = [word for word in words if word.startswith("-")]
        assert not [word for word in given if not re.search(rf"(?<![\w-]){re.escape(word)}\b", before)], line
        for word in words:
            assert not word.startswith("configs/") or (ROOT / word).is_file(), word


def complete(*words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(shlex.quote(word) for word in words)
    code = (
        f"{script('bash')}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words) - 1}\n_phalanx\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_verbs_options_keys_and_files() -> None:
    assert complete("phalanx", "ev") == ["evaluate"] and complete("phalanx", "checkpoint", "c") == ["consolidate"]
    assert set(complete("phalanx", "")) == set(VERBS)
    assert complete("phalanx", "train", "--n") == ["--nproc"] and complete("phalanx", "checkpoint", "diff", "--t") == [
        "--tolerance"
    ]
    assert complete("phalanx", "train", "optim.l") == [f"{key.name}=" for key in keys() if key.name.startswith("optim.l")]
    assert "pyproject.toml" in complete("phalanx", "train", "pypro")
    assert "--best" in options(["evaluate"]) and "--help" in options(["checkpoint", "ls"])


def test_zsh_gets_the_same_after_its_own_beginning(tmp_path: Path) -> None:
    assert script("zsh").startswith("# Completion of phalanx, for zsh.\nautoload -Uz bashcompinit compinit\n")
    (tmp_path / "script").write_text(script("bash"))
    assert subprocess.run(["bash", "-n", tmp_path / "script"], check=False).returncode == 0
