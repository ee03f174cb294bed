"""Where ranks meet: on one node nobody outside is invited, and who waits for a rank that does not come says so."""

import json
import signal
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.support.forking import Forked
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import RanksApart, UserError
from phalanx.dist.comm import network, rendezvous, waiting
from phalanx.dist.comm.process_group import World
from phalanx.dist.comm.rendezvous import all_arrived, launched_store, meeting_place, open_store, slurm_store
from phalanx.dist.processes.environment import Ranks
from tests.support.running import DIGITS, FEW_EVALUATED, forked

TEN_SECONDS = timedelta(seconds=10)
TWO = [Ranks(rank, 2, rank, 2, 0, "torchrun") for rank in (0, 1)]
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_LAUNCHER_PORT": "1234"}


def _listening() -> set[str]:
    """The addresses at which this process listens."""
    found = psutil.Process().net_connections()
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _both(work: Callable[[Ranks], Any], ranks: list[Ranks] = TWO) -> list[Any]:
    """What two ranks find, in two threads."""
    found: list[Any] = [None, None]

    def one(number: int) -> None:
        try:
            found[number] = work(ranks[number])
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _addresses(world: World) -> list[str]:
    return sorted(_listening())


def test_ranks_of_one_node_listen_on_the_loopback_interface_alone(pool: Pool) -> None:
    assert pool.run(2, _addresses) == [["127.0.0.1"], ["127.0.0.1"]]


def test_under_a_launcher_whose_store_all_may_reach_the_ranks_of_one_node_meet_in_another() -> None:
    launchers = open_store("127.0.0.1", 0, None, TEN_SECONDS)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launchers.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    one, other = _both(lambda ranks: launched_store(ranks, TEN_SECONDS, environment))
    one.set("key", "value")
    assert other.get("key") == b"value"
    assert not launchers.check(["key"]) and not launchers.check(["phalanx/0/key"])


def test_ranks_started_by_hand_meet_whoever_comes_first() -> None:
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    one, other = _both(lambda ranks: launched_store(ranks, TEN_SECONDS, environment))
    other.set("key", "value")
    assert one.get("key") == b"value"


def test_ranks_of_several_nodes_started_by_hand_meet_at_the_address_that_they_are_given() -> None:
    own = next((address for address in network.interfaces().values() if not address.startswith("127.")), "127.0.0.1")
    port, nodes = _free_port(), [Ranks(rank, 2, 0, 1, rank, "torchrun") for rank in (0, 1)]
    environment = {"MASTER_ADDR": own, "MASTER_PORT": str(port)}
    one, other = _both(lambda ranks: launched_store(ranks, TEN_SECONDS, environment), nodes)
    other.set("key", "value")
    assert one.get("key") == b"value"
    at = {c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    assert at == {own} or own.startswith("127.")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: the port is taken. Set MASTER_PORT"):
            launched_store(TWO[0], TEN_SECONDS, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


def test_under_slurm_only_the_ranks_know_under_which_word_the_keys_lie(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def meet(ranks: Ranks) -> Any:
        store = slurm_store(ranks, tmp_path, TEN_SECONDS, "127.0.0.1", STEP)[0]
        published = meeting_place(tmp_path, STEP)
        assert published.stat().st_mode & 0o777 == 0o600
        seen.append(json.loads(published.read_text()))
        return store

    one, other = _both(meet, [Ranks(rank, 2, rank, 2, 0, "slurm") for rank in (0, 1)])
    one.set("key", "value")
    assert other.get("key") == b"value"
    stranger = rendezvous._client("127.0.0.1", seen[0]["port"], TWO[1], TEN_SECONDS)
    assert not stranger.check(["key"]) and stranger.check([f"{seen[0]['word']}/key"])
    assert len(seen[0]["word"]) == 32 and seen[0]["address"] == "127.0.0.1"
    assert "0.0.0.0" not in _listening() and "::" not in _listening()


@pytest.mark.parametrize("planted", ["readable", "a link"])
def test_an_address_that_somebody_else_may_have_published_is_not_taken(tmp_path: Path, planted: str) -> None:
    place = meeting_place(tmp_path, STEP)
    real = tmp_path / "real" if planted == "a link" else place
    real.write_text(json.dumps({"address": "127.0.0.1", "port": 1, "node": "x", "word": "y"}))
    real.chmod(0o600 if planted == "a link" else 0o644)
    if planted == "a link":
        place.symlink_to(real)
    assert rendezvous._published(place) is None
    rendezvous._publish(place, {"port": 2})
    assert rendezvous._published(place) == {"port": 2} and (planted != "a link" or '"port": 1' in real.read_text())


def test_who_waits_says_for_whom_and_gives_up_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "_SPEAK_AFTER_S", (0.1, 60.0))
    ranks = Ranks(0, 4, 0, 4, 0, "torchrun")
    store = open_store("127.0.0.1", 0, 4, TEN_SECONDS)
    store.set("here/2", "")
    with pytest.raises(RanksApart, match=r"rank 0 waited \d s for ranks 1, 3. Start all 4 ranks \(`phalanx train --nproc 4`"):
        all_arrived(store, ranks, timedelta(seconds=1))
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("phalanx: rank 0 of 4 waits for ranks 1, 3 (0 s so far)")


ALONE = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
SRUN |= {"SLURM_STEP_TASKS_PER_NODE": "2"}


@pytest.mark.parametrize(
    ("case", "number"),
    [("rank 0", signal.SIGINT), ("rank 1", signal.SIGTERM), ("a shell started by srun", signal.SIGTERM)],
)
def test_one_rank_of_two_says_whom_it_waits_for_and_ends_at_one_signal(
    tmp_path: Path, case: str, number: signal.Signals
) -> None:
    rank = "1" if case == "rank 1" else "0"
    by_hand = ALONE | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": str(_free_port())}
    environment = SRUN | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} if "srun" in case else by_hand
    running = forked("train", DIGITS, FEW_EVALUATED, "dist.device=cpu", cwd=tmp_path, **environment)
    assert isinstance(running.process, Forked)
    heard = running.process.errors_so_far
    running.until(lambda: "waits for" in heard())
    running.signal(number)
    assert running.wait() == 75
    first, last = running.errors.splitlines()
    other = "rank 0 at 127.0.0.1" if rank == "1" else "rank 1"
    assert f"rank {rank} of 2 waits for {other}" in first
    assert f"stopped by {number.name} while rank {rank} waited for {other}" in last
