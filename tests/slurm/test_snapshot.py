"""The code that a job runs is the code that was submitted, all of it, and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm.snapshot import Snapshot, snapshot, snapshot_of
from tests.support.running import RESNET18, ROOT, clean_environment

ROOMS = ("configs", "data", "dist", "launch", "models", "slurm", "train")
IGNORE_CACHES = shutil.ignore_patterns("__pycache__", "*.egg-info")
Take = Callable[..., Snapshot]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with this checkout's code, all of it committed, and some that no job needs."""
    root = tmp_path / "checkout"
    for folder in (*ROOMS, "src"):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=IGNORE_CACHES)
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    for name in ("LICENSE", "README.md", "tests/test_it.py", "docs/page.md"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"{name}\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    return root


def configured(tmp_path: Path, *overrides: str) -> tuple[RunDirectory, RunConfig]:
    config = load([RESNET18], [f"runs={tmp_path}/runs", "name=one", *overrides])
    return RunDirectory.of(config), config


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Takes a snapshot of a checkout for the run `one`."""

    def taken(root: Path, again: bool = False) -> Snapshot:
        return snapshot_of(root, *configured(tmp_path), again)

    return taken


def python(taken: Snapshot | Path, cwd: Path, program: str, *arguments: str) -> list[str]:
    """The lines that a program prints which runs in the snapshot's environment, or with a package that lies in a folder."""
    variables = taken.environment() if isinstance(taken, Snapshot) else {"PYTHONPATH": str(taken)}
    command, environment = [sys.executable, "-c", program, *arguments], clean_environment(**variables)
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100
    ).stdout.splitlines()


NEW_RUN = "import sys; from phalanx.configs.load import load; from phalanx.dist.storage.run_directory import new_identity"
NEW_RUN += "; print(new_identity(load([sys.argv[1]], ['name=new']), None)['commit'])"


def described(taken: Snapshot) -> dict[str, object]:
    content: dict[str, object] = json.loads((taken.path / "commit.json").read_text())
    return content


def test_a_snapshot_holds_the_tracked_files_as_they_are_in_the_working_tree(checkout: Path, take: Take) -> None:
    (checkout / "dist/storage/durable_files.py").write_text("CHANGED = True\n")
    (checkout / "dist/ema/averaged_weights.py").unlink()
    (checkout / "train/added.py").write_text("")
    git(checkout, "add", "train/added.py")
    code = (taken := take(checkout)).path
    assert (code / "dist/storage/durable_files.py").read_text() == "CHANGED = True\n"
    assert (code / "train/added.py").exists() and not (code / "dist/ema/averaged_weights.py").exists()
    assert {p.name for p in code.iterdir()} == {*ROOMS, "src", "pyproject.toml", "LICENSE", "README.md", "commit.json"}
    assert all(os.readlink(code / "src/phalanx" / room) == f"../../{room}" for room in ROOMS)
    assert os.access(code / "slurm/virtual_cluster/start.sh", os.X_OK) and not os.access(
        code / "dist/storage/durable_files.py", os.X_OK
    )
    assert taken.commit == git(checkout, "rev-parse", "HEAD") and taken.changed and not taken.left_out
    assert described(taken)["changes"] == ["dist/ema/averaged_weights.py", "dist/storage/durable_files.py", "train/added.py"]
    copied = [p for p in code.rglob("*") if p.is_file() and not p.is_symlink() and p.name != "commit.json"]
    assert (taken.files, taken.bytes) == (len(copied), sum(p.stat().st_size for p in copied))


def test_a_checkout_without_changes_is_its_commit(checkout: Path, take: Take) -> None:
    taken = take(checkout)
    assert taken.commit and not taken.changed and described(taken)["changes"] == []


def test_untracked_python_that_may_be_imported_is_copied_and_named(
    checkout: Path, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ignore").write_text("dist/\n*.py\n")
    (tmp_path / "gitconfig").write_text(f"[core]\nexcludesFile = {tmp_path}/ignore\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    for name in ("dist/new.py", "dist/notes.txt", "models/.env", "tests/new.py", "new.py"):
        (checkout / name).write_text("")
    taken = take(checkout)
    assert taken.untracked == ("dist/new.py",) and taken.changed and not taken.left_out
    assert (taken.path / "dist/new.py").exists()
    assert not any((taken.path / name).exists() for name in ("dist/notes.txt", "models/.env", "tests", "new.py"))


def test_secrets_data_and_links_that_lead_out_stay_behind_and_are_named(checkout: Path, take: Take, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("word")
    hidden = ("configs/.env", "configs/.env.local", "configs/server.PEM", "configs/my_credentials.json", "data/secrets/a.yaml")
    for name in hidden:
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("word")
    (checkout / "data/secret_sharing.py").write_text("")
    with open(checkout / "data/images.bin", "wb") as file:
        file.truncate(11 * 2**20)
    links = {
        "configs/out.txt": tmp_path / "private.txt",
        "models/round_about": Path("../../private.txt"),
        "models/page.md": Path("../docs/page.md"),
        "models/same.py": checkout / "dist/storage/durable_files.py",
    }
    for name, target in links.items():
        (checkout / name).symlink_to(target)
    git(checkout, "add", "--force", ".")
    (checkout / "models/untracked.py").symlink_to(tmp_path / "private.txt")
    taken = take(checkout)
    left_out = dict(taken.left_out)
    linked_out = {"configs/out.txt", "models/round_about", "models/page.md", "models/untracked.py"}
    assert left_out.keys() == {*hidden, *linked_out, "data/images.bin"}
    assert "secrets" in left_out["configs/.env"] and "11 MB" in left_out["data/images.bin"]
    assert "link out of" in left_out["configs/out.txt"] and "docs/page.md" in left_out["models/page.md"]
    assert (taken.path / "data/secret_sharing.py").exists()
    assert os.readlink(taken.path / "models/same.py") == "../dist/storage/durable_files.py"
    assert all(p.resolve().is_relative_to(taken.path) and p.exists() for p in taken.path.rglob("*"))


def test_a_job_imports_the_snapshot_though_the_checkout_was_edited_since(checkout: Path, take: Take, tmp_path: Path) -> None:
    taken = take(checkout)
    (checkout / "dist/storage/durable_files.py").write_text("raise AssertionError('the checkout was imported')\n")
    (checkout / "src/phalanx/__init__.py").write_text("raise AssertionError('the checkout was imported')\n")
    program = (
        "import phalanx, phalanx.launch.arguments, phalanx.dist.storage.durable_files as f\n"
        "print(phalanx.__file__, f.__file__, sep='\\n')"
    )
    assert python(taken, tmp_path, program) == [
        str(taken.path / "src/phalanx/__init__.py"),
        str(taken.path / "src/phalanx/dist/storage/durable_files.py"),
    ]
    # A run directory often lies in a checkout, which has another commit by the time the job runs.
    commit = git(checkout, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--force", "runs")
    git(tmp_path, "commit", "--quiet", "--message", "later")
    assert python(taken, tmp_path, NEW_RUN, RESNET18) == [commit]


def test_the_callers_python_path_follows_without_another_phalanx(
    checkout: Path, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{checkout}/src:{tmp_path}/tools:")
    taken = take(checkout)
    assert taken.environment()["PYTHONPATH"] == f"{taken.path}/src:{tmp_path}/tools"
    assert taken.environment() == Snapshot.environment_of(configured(tmp_path)[0])


def test_a_users_own_classes_are_those_that_were_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    files = {"task.name": "tasks/mine.py", "data.name": "../mine.py", "model.name": f"{tmp_path}/absolute/mine.py"}
    monkeypatch.chdir(folder.parent)
    for path in files.values():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("class Mine:\n    text = 'submitted'\n")
    monkeypatch.chdir(folder)
    taken = snapshot(*configured(tmp_path, *(f"{key}={path}:Mine" for key, path in files.items())))
    for path in files.values():
        (folder / path).write_text("class Mine:\n    text = 'edited'\n")
    (folder / "tasks/later.py").write_text("class Mine:\n    text = 'not in the snapshot'\n")
    program = (
        "import sys; from phalanx.configs.own_code import load_own\n"
        "for name in sys.argv[1:]: print(load_own('task.name', name + ':Mine').text)"
    )
    said = python(taken, folder, program, *files.values(), "tasks/later.py")
    assert said == ["submitted"] * 3 + ["not in the snapshot"]
    assert python(taken, ROOT, program, *files.values()) == ["submitted"] * 3  # a job may start in another folder


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no file"), (b"class Mine(:", "line 1 is not Python"), (b"TEXT = '\xff'\n", "is not Python")],
)
def test_own_code_that_cannot_run_is_refused_before_anything_is_copied(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(UserError, match=f"task.name=.*mine.py.*{said}"):
        snapshot(*configured(tmp_path, f"task.name={tmp_path}/mine.py:Mine"))
    assert not (tmp_path / "runs").exists()


def test_a_run_keeps_its_first_snapshot_unless_asked(checkout: Path, take: Take) -> None:
    first = take(checkout)
    for number in (1, 2):
        (checkout / "dist/storage/durable_files.py").write_text(f"NUMBER = {number}\n")
        kept = take(checkout)
        assert kept == take(checkout) and (kept.path / "dist/storage/durable_files.py").read_text() != f"NUMBER = {number}\n"
        assert (take(checkout, again=True).path / "dist/storage/durable_files.py").read_text() == f"NUMBER = {number}\n"
    assert sorted(p.name for p in first.path.parent.iterdir()) == ["code", "code-1", "code-2"]
    file = "dist/storage/durable_files.py"
    assert (first.path.parent / "code-1" / file).read_bytes() == (ROOT / file).read_bytes()


def test_submissions_at_the_same_time_agree_on_one_snapshot(checkout: Path, take: Take) -> None:
    with ThreadPoolExecutor(3) as threads:
        one, *others = threads.map(take, [checkout] * 3)
    assert others == [one, one] and [p.name for p in one.path.parent.iterdir()] == ["code"]


def test_a_kill_in_the_middle_of_a_file_leaves_no_snapshot(checkout: Path, take: Take, tmp_path: Path) -> None:
    (checkout / "dist/large.yaml").write_bytes(bytes(2**20))
    git(checkout, "add", ".")
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from tests.slurm.test_snapshot import configured, snapshot_of
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
        signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[3]))
        snapshot_of(Path(sys.argv[1]), *configured(Path(sys.argv[2])))
    """
    # The kernel kills the process in the write that crosses the limit; where the signal is ignored, the write fails.
    for answer, code in (("SIG_DFL", -signal.SIGXFSZ), ("SIG_IGN", 1)):
        command = [sys.executable, "-c", program, str(checkout), str(tmp_path), answer]
        done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=100)
        assert done.returncode == code, done.stderr
        (left,) = (tmp_path / "runs/one").iterdir()
        assert left.name.startswith(".code-") and (left / "configs").is_dir() and not (left / "src").exists()
    assert "File too large, while the code was copied" in done.stderr
    os.utime(left, (0, 0))
    assert [p.name for p in take(checkout).path.parent.iterdir()] == ["code"]


@pytest.mark.parametrize("inside_a_repository", [False, True])
def test_an_installed_package_is_copied_as_it_is(checkout: Path, take: Take, tmp_path: Path, inside_a_repository: bool) -> None:
    package = tmp_path / "environment/site-packages/phalanx"
    shutil.copytree(checkout / "src/phalanx", package)
    (package / "dist/weights.bin").write_bytes(b"data")
    if inside_a_repository:
        git(tmp_path / "environment", "init", "--quiet")
        git(tmp_path / "environment", "commit", "--quiet", "--allow-empty", "--message", "somebody's own")
    taken = take(package)
    assert taken.commit is None and not taken.changed and not taken.left_out and not (taken.path / "pyproject.toml").exists()
    names = {str(p.relative_to(taken.path / "src/phalanx")) for p in (taken.path / "src").rglob("*") if p.is_file()}
    assert {"py.typed", "configs/recipes/digits_resnet18.yaml", "slurm/virtual_cluster/start.sh", "launch/main.py"} <= names
    assert "dist/weights.bin" not in names
    program = "import phalanx.slurm.snapshot as s; print(s.__file__)"
    assert python(taken, tmp_path, program) == [str(taken.path / "src/phalanx/slurm/snapshot.py")]
    # Not the commit of the repository around it.
    assert python(taken, tmp_path, NEW_RUN, RESNET18) == python(package.parent, tmp_path, NEW_RUN, RESNET18) == ["None"]
    nested = snapshot_of(taken.path, *configured(tmp_path, "name=two"))
    assert (nested.files, nested.bytes) == (taken.files, taken.bytes)


def test_a_place_that_cannot_hold_a_snapshot_is_refused(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for runs, said in ((tmp_path / "file", "is not a folder"), (tmp_path / "a:b", "Set runs=FOLDER")):
        with pytest.raises(UserError, match=said):
            snapshot_of(checkout, *configured(tmp_path, f"runs={runs}"))
    (tmp_path / "runs/one/code").mkdir(parents=True)
    with pytest.raises(UserError, match="not a snapshot"):
        snapshot_of(checkout, *configured(tmp_path))
