"""Every command in the README and the docs runs as it stands, but for those marked `not run here`.

The README's `phalanx` is the installed command. That of the other pages does the same in a forked process, seconds sooner.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.launch.verbs import VERBS
from tests.support.running import FORGE, ROOT, clean_environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>bash|python)\n(?P<content>.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(mark, language, content) of the code blocks of a page."""
    return [(m["mark"] or "", m["language"], m["content"]) for m in _BLOCK.finditer(page.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = clean_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    if page.name != "README.md":
        environment["PATH"] = f"{FORGE.command(tmp_path_factory.mktemp('bin')).parent}:{environment['PATH']}"
    for mark, language, content in blocks(page):
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(content)
        elif language == "bash" and not mark.startswith("not run here"):
            command = ["bash", "-euo", "pipefail", "-c", content]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
            assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"


def test_every_verb_has_a_page_that_the_readme_names() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert (ROOT / f"docs/{verb}.md").is_file() and f"docs/{verb}.md" in readme


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
