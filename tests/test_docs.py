"""Every command in the README and the docs runs as it stands, but for those marked `not run here`.

The README's commands are the installed ones. On other pages `phalanx`, scripts and torchrun do the same in forked processes,
seconds sooner; and the recipe that most of their commands train has a narrower network here.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from phalanx import __version__
from phalanx.configs.schema import keys
from phalanx.configs.strategies import STRATEGIES
from phalanx.data.open import DATASETS
from phalanx.launch.verbs import VERBS
from tests.support.running import DIGITS, FORGE, ROOT, clean_environment

ROOMS = ("configs", "dist", "models", "data", "train", "launch", "slurm")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>bash|python)\n(?P<content>.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(mark, language, content) of the code blocks of a page."""
    return [(m["mark"] or "", m["language"], m["content"]) for m in _BLOCK.finditer(page.read_text())]


def is_run(mark: str, language: str) -> bool:
    return language == "bash" and not mark.startswith("not run here")


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(is_run(*b[:2]) for b in blocks(p))], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if page.name == "README.md":
        (tmp_path / "configs").symlink_to(ROOT / "configs")
    else:
        shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copy(DIGITS, tmp_path / "configs/recipes/digits_resnet18.yaml")
    environment = clean_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    if page.name != "README.md":
        environment["PATH"] = f"{FORGE.commands(tmp_path_factory.mktemp('bin'))}:{environment['PATH']}"
    for mark, language, content in blocks(page):
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(content)
        elif is_run(mark, language):
            command = ["bash", "-euo", "pipefail", "-c", content]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
            assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"


def test_every_verb_has_a_page_that_the_readme_names() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert (ROOT / f"docs/{verb}.md").is_file() and f"docs/{verb}.md" in readme


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> set[str]:
    """Targets of a page's links within the checkout."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\]\((?!https?:)([^)]+)\)", text))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, a heading that is not there"


SEARCHED = ("gradient accumulation", "early stopping", "test-time augmentation", "fine-tuning", "mixed precision", "multi-node")
OURS_ALONE = (
    "by heart",
    "asking in other ways",
    "ending early",
    "goes on with",
    "weights of others",
    "newest whole",
    "is whole",
)


def test_headings_have_the_words_that_people_search_for() -> None:
    texts = {page: page.read_text().lower() for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]}
    headings = [line for text in texts.values() for line in text.splitlines() if line.startswith("#")]
    assert not [word for word in SEARCHED if not any(word in heading for heading in headings)]
    helps = "\n".join([*(verb.meaning for verb in VERBS.values()), *(key.meaning for key in keys())]).lower()
    for page, text in {**texts, "--help": helps}.items():
        assert not [word for word in OURS_ALONE if word in text.replace("\n", " ")], page


def test_the_map_shows_every_room_and_every_room_inside_one() -> None:
    text = (ROOT / "docs/how_it_works.md").read_text()
    folders = [f"{init.parent.relative_to(ROOT)}/" for room in ROOMS for init in (ROOT / room).rglob("__init__.py")]
    missing = [folder for folder in folders if folder.count("/") <= 2 and f"`{folder}`" not in text]
    assert not missing, f"docs/how_it_works.md lacks {', '.join(missing)}"


def test_every_page_is_in_the_index_and_the_readme_names_that() -> None:
    index = ROOT / "docs/README.md"
    linked = {link.partition("#")[0] for link in links(index)}
    missing = {page.name for page in (ROOT / "docs").glob("*.md")} - linked - {"README.md"}
    assert not missing, f"docs/README.md lacks {', '.join(sorted(missing))}"
    assert "docs/README.md" in {link.partition("#")[0] for link in links(ROOT / "README.md")}


def test_the_site_has_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [page for section in site["nav"] for pages in section.values() for page in pages]
    assert sorted(listed) == sorted(page.name for page in (ROOT / site["docs_dir"]).glob("*.md"))


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_chinese_readme_has_commands_and_links_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    commands = [line for block in chinese.split("```bash\n")[1:] for line in block.partition("```")[0].splitlines()]
    assert len(commands) > 8
    for line in commands:
        words = line.split()
        assert line in english or (words[0] == "phalanx" and words[1] in VERBS), line
        assert not [word for word in words if word.startswith("configs/") and not (ROOT / word).is_file()], line
    for link in links(ROOT / "README.zh-CN.md"):
        assert link.startswith("http") or (ROOT / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize(("page", "names"), [("datasets.md", DATASETS), ("strategies.md", STRATEGIES)])
def test_a_page_has_a_row_for_each_name_of_a_table(page: str, names: Iterable[str]) -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("| `")]
    missing = [name for name in names if not any(f"`{name}`" in first for first in rows)]
    assert not missing, f"docs/{page} has no row for {', '.join(missing)}"
