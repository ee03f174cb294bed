"""What a run talks to: SLURM and its partitions, W&B."""

from collections.abc import Iterator

from phalanx.launch.doctor_checks.diagnosis import Diagnosis
from phalanx.slurm import ask, cluster


def slurm() -> Iterator[Diagnosis]:
    """SLURM, where it is installed, and what its partitions do with preempted jobs."""
    problem = ask.available()
    if problem is not None:
        if "not found" in problem:
            return
        yield Diagnosis("SLURM", "yellow", problem, "Submitting does not work from here: try a login node, or later.")
        return
    partitions = cluster.partitions()
    yield Diagnosis(
        "SLURM", "green", f"partitions {', '.join(f'{one.name} ({one.nodes} nodes)' for one in partitions.values())}"
    )
    if not cluster.accounting():
        said = "SLURM keeps no accounting"
        yield Diagnosis("accounting", "yellow", said, "`phalanx status` forgets how a job ended a few minutes after its end.")
    if not cluster.requeues():
        said = "JobRequeue=0: SLURM does not requeue jobs by itself"
        yield Diagnosis(
            "requeueing", "yellow", said, "Submit with slurm.requeue=true, and after a preemption look at `phalanx status`."
        )
    for one in partitions.values():
        if one.preempt_mode != "OFF" and not one.requeues:
            said = f"partition {one.name}: preempted jobs are not requeued (PreemptMode={one.preempt_mode})"
            yield Diagnosis(
                "preemption", "yellow", said, "A preempted run ends with a checkpoint; `phalanx submit` it again then."
            )


def wandb() -> Iterator[Diagnosis]:
    """Weights & Biases, as `track.wandb=online` needs it."""
    from phalanx.train.tracking.sinks import why_not_online

    reason = why_not_online()
    if reason is None:
        yield Diagnosis("W&B", "green", "a key is there, and the server answers")
    else:
        yield Diagnosis("W&B", "yellow", f"online tracking is not possible: {reason}", "track.wandb=offline works everywhere.")
