"""From a configuration to a finished run, on this rank: check, join, build, restore, train."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from phalanx.configs.errors import ExitCode, NeverBegun, RunLost, RunTaken, UserError
from phalanx.configs.optimizer_table import spec_of
from phalanx.configs.schema import RunConfig
from phalanx.data.loading import worker_memory
from phalanx.dist import determinism, heartbeat, precision
from phalanx.dist.checkpoint import plan, rehearsal
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.comm.collectives import barrier, broadcast_object, run_and_agree, run_on_main
from phalanx.dist.comm.process_group import World, join, leave
from phalanx.dist.engine import Engine
from phalanx.dist.health.watchdog import watched
from phalanx.dist.ownership.run_owner import RunOwner
from phalanx.dist.processes.age import seconds_since_start
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.processes.stop import StopRequest
from phalanx.dist.processes.threads import choose_threads
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.early_stopping import best_so_far, measured_so_far
from phalanx.train.evaluation.evaluate import rehearse
from phalanx.train.loop import train
from phalanx.train.optim import plateau
from phalanx.train.optim.schedules import depends_on_length, learning_rate, scaled
from phalanx.train.run import Due, Run
from phalanx.train.setup import resume_checkpoint, sizes
from phalanx.train.setup.build import Parts, build_distributed, build_local, length, steps_of_epoch
from phalanx.train.setup.checks import check
from phalanx.train.setup.data_check import check_data
from phalanx.train.setup.finished import changes, is_evaluated, is_settled, why_over
from phalanx.train.setup.hints import average_without_ramp, late_watchdog, no_tensor_cores
from phalanx.train.setup.introduction import introduced
from phalanx.train.setup.make_run import make_run
from phalanx.train.setup.recorded import record
from phalanx.train.setup.resume_report import ResumeReport, Setting, as_written
from phalanx.train.setup.same_data import held_for_training
from phalanx.train.state import TrainState
from phalanx.train.tasks import phases_of
from phalanx.train.tracking.ledger import cut_ledgers
from phalanx.train.tracking.progress import ProgressLine
from phalanx.train.tracking.tracker import Tracker

_EDITED = "{} was edited since the run was last started: the code as it is now is trained from here on"


def join_ranks(config: RunConfig, ranks: Ranks) -> tuple[World, int]:
    """Checks, then joins the other ranks; also returns the number of this rank's threads."""
    try:
        check(config, ranks.world)
    except UserError as error:
        raise UserError(str(error), shared=True) from None
    directory = RunDirectory.of(config)
    recorded = directory.read_identity().get("threads") if directory.exists() else None
    threads = choose_threads(config.dist, recorded)
    determinism.apply(config.train.deterministic, sizes.vary(config))
    return join(ranks, config.dist, directory.path, threads), threads


def run(
    config: RunConfig,
    ranks: Ranks,
    stop: StopRequest,
    stop_at: int | None = None,
    job_is_over: Callable[[str], bool] = lambda job: False,
) -> ExitCode:
    """Trains, or resumes the run of that name if it exists.

    Args:
        stop_at: step to save and stop at, without changing the schedule.
        job_is_over: whether SLURM reports that the job of another trainer of the run has ended.

    Raises:
        UserError: on bad input.
        TrainingFailed: if training cannot continue.
    """

    def build(world: World, resuming: bool) -> tuple[Parts, Sequence[str]]:
        directory = RunDirectory.of(config)
        made = run_and_agree(world, lambda: build_local(config, resuming))
        doubts = list[str]()
        if resuming:
            doubts = run_and_agree(world, lambda: held_for_training(directory, config, made.training, made.validation))
        doubts += check_data(config, made.training, made.validation, world, resuming)
        parts = build_distributed(config, made, world)
        return parts, doubts + list(parts.warnings)

    with opened(config, ranks, stop, build, stop_at, job_is_over) as under_way:
        if under_way is not None:
            under_way.code = train(under_way)
    return ExitCode.DONE if under_way is None else under_way.code


# From the joined ranks, and whether there is a checkpoint: the parts of a run, and warnings.
Build = Callable[[World, bool], tuple[Parts, Sequence[str]]]


@contextmanager
def opened(
    config: RunConfig,
    ranks: Ranks,
    stop: StopRequest,
    build: Build,
    stop_at: int | None = None,
    job_is_over: Callable[[str], bool] = lambda job: False,
) -> Iterator[Run | None]:
    """A run that is ready for its next step, new or resumed; None if it is over. Ends it as its `code` says. As `run`."""
    directory = RunDirectory.of(config)
    owner = RunOwner(directory, ranks, job_is_over, lambda: stop.asked)
    with watched(directory, ranks, config.dist.hang_s), owner:
        world, threads = join_ranks(config, ranks)
        _claim(world, owner, config)
        heartbeat.beat("build")
        is_new = broadcast_object(world, directory.is_new())
        try:
            yield from _opened(config, world, threads, stop, build, stop_at, owner)
        except UserError as refusal:
            if not is_new or heartbeat.latest().step > 0:
                raise
            # Otherwise the directory would belong to this experiment, and refuse the corrected recipe.
            if world.ranks.is_main:
                directory.forget()
            raise NeverBegun(str(refusal), shared=refusal.shared) from None


def _opened(
    config: RunConfig, world: World, threads: int, stop: StopRequest, build: Build, stop_at: int | None, owner: RunOwner
) -> Iterator[Run | None]:
    directory, ranks = RunDirectory.of(config), world.ranks
    before = directory.read_config() if directory.exists() else None
    parts, warnings = build(world, broadcast_object(world, bool(steps(directory.checkpoints))))
    doubts = list(warnings)
    heartbeat.beat("restore")
    stored, skipped = resume_checkpoint.checkpoint_to_resume(directory, parts.engine, config)
    state = TrainState() if stored is None else TrainState(stored.step, stored.samples)
    best = best_so_far(world, directory, config, state.step)
    if parts.plateau is not None:
        for known, value in measured_so_far(world, directory, plateau.watched(config), state.step):
            parts.plateau.add(known, value)
    due = Due.of(config, parts.last_step, len(parts.training))
    if stored is not None and before is not None and (reason := why_over(stored, due, best)) is not None:
        _leave_as_it_is(config, before, reason, directory, state, world)
        yield None
        return
    if stop_at is not None and state.step >= stop_at:
        raise UserError(f"--stop-at {stop_at}: the run is at step {state.step} already. Give a later step.", shared=True)
    if ranks.is_main:
        doubts += [_EDITED.format(name) for name in directory.edited_own_code(config)]
    run_on_main(world, lambda: directory.create(config, threads))
    run_on_main(world, lambda: record(directory, parts.data_info, parts.training, parts.validation))
    if stored is not None:
        parts.engine.allocate_state(stored)
        resume_checkpoint.fill(directory, parts.engine, stored)
        resume_checkpoint.set_aside(directory, parts.engine, skipped)
    run_on_main(world, lambda: cut_ledgers(directory.ledger, state.step))
    tracker = run_and_agree(world, lambda: Tracker(config, directory, ranks, state.step, parts.last_step))
    code = ExitCode.FAILED
    try:
        _report_start(config, before, stored, skipped, world, parts, tracker)
        for sentence in doubts:
            tracker.progress.say(f"phalanx: {sentence}")
            tracker.event("warning", state.step, reason=sentence)
        _warm_up(config, directory, state, parts, tracker)
        under_way = make_run(
            config,
            directory,
            parts,
            stop,
            owner,
            state=state,
            tracker=tracker,
            best=best,
            evaluated=stored is not None and is_evaluated(stored, due, best),
            stop_at=stop_at,
        )
        stop.unsaved = lambda: under_way.state.step - under_way.saved
        try:
            yield under_way
            code = under_way.code
        except RunLost:
            raise
        except Exception:
            under_way.let_saves_end()
            raise
    except RunLost:
        raise
    except Exception as error:
        tracker.event("failure", state.step, reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        heartbeat.beat("end")
        tracker.close(int(code))
    # After the first rank's exit launchers end the others; closing a tracker may take a while.
    barrier(world)
    leave()


def _claim(world: World, owner: RunOwner, config: RunConfig) -> None:
    """
    Raises:
        RunTaken: on every rank, if another trainer has the run.
    """

    def claim() -> None:
        owner.claim()
        RunDirectory.of(config).refuse_another_experiment(config)  # claimed by another experiment since the ranks were started

    try:
        run_on_main(world, claim)
    except UserError as refusal:
        raise RunTaken(str(refusal), shared=True) from None


def _leave_as_it_is(
    config: RunConfig, before: RunConfig, reason: str, directory: RunDirectory, state: TrainState, world: World
) -> None:
    """Reports that there is nothing to do, and which changes config.yaml does not get. All ranks call together."""
    settled = broadcast_object(world, is_settled(directory))
    say = ProgressLine(state.step, state.step, world.ranks.is_main).say
    if not settled:
        # The last attempt was killed at its end, or its W&B run is incomplete.
        tracker = run_and_agree(world, lambda: Tracker(before, directory, world.ranks, state.step, state.step))
        tracker.event("resume", state.step)
        tracker.event("done", state.step)
        tracker.close(int(ExitCode.DONE))
    say(reason)
    if (changed := changes(before, config, "hardware", "bookkeeping")) is not None:
        say(f"phalanx: nothing was changed: config.yaml does not get {changed}")
    heartbeat.beat("end")
    barrier(world)
    leave()


def _warm_up(config: RunConfig, directory: RunDirectory, state: TrainState, parts: Parts, tracker: Tracker) -> None:
    """Rehearses a step, an evaluation and a save, so that errors appear before there is anything to lose."""
    engine = parts.engine
    heartbeat.beat("warm-up")
    examples, local_ranks = parts.loader.examples(state.step, engine.warm_up_share), engine.world.ranks.local_world
    run_and_agree(engine.world, lambda: parts.loader.check_memory(local_ranks))
    crowded = worker_memory.doubt(config.data.workers, local_ranks)
    hints = [hint for hint in (crowded, late_watchdog(config.dist, engine.world.ranks.world)) if hint]
    for sentence in [*engine.warm_up(phases_of(parts.task), examples), *hints]:
        tracker.progress.say(f"phalanx: {sentence}")
        tracker.event("warning", state.step, reason=sentence)
    for line in engine.describe():
        tracker.progress.say(line)
    rehearsal.rehearse(engine.world, directory.checkpoints, engine.entries(), state.step, _state_to_come(config, engine))
    if (doubt := rehearse(engine, parts.task, parts.evaluation, config.checkpoint.best, plateau.watched(config))) is not None:
        tracker.progress.say(f"phalanx: {doubt}")
        tracker.event("warning", state.step, reason=doubt)


def _state_to_come(config: RunConfig, engine: Engine) -> int:
    """Bytes of the optimizer's state, which does not exist before its first step."""
    if any(entry.kind == "optimizer" for entry in engine.entries()):
        return 0
    states = spec_of(config.optim).state_tensors(config.optim)
    trained = {name for name, parameter in engine.unwrapped.named_parameters() if parameter.requires_grad}
    entries = [e for e in engine.entries() if e.kind == "model" and e.name in trained]
    return states * plan.total_bytes(plan.tensor_infos(entries))


def _report_start(
    config: RunConfig,
    before: RunConfig | None,
    stored: Manifest | None,
    skipped: resume_checkpoint.SkippedCheckpoints,
    world: World,
    parts: Parts,
    tracker: Tracker,
) -> None:
    """Reports and records how the run starts or resumes."""
    say, ranks = tracker.progress.say, world.ranks.world
    on = f"{ranks} rank{'s' if ranks > 1 else ''}"
    for step, problem in skipped:
        say(f"phalanx: the checkpoint of step {step} was skipped: {problem}")
        tracker.event("passed_over", step, reason=problem)
    details: dict[str, Any] = {"world_size": ranks, "strategy": config.dist.strategy, "device": str(world.device)}
    details |= {"steps": parts.last_step, "precision": config.dist.precision, "sync_bn": config.dist.sync_bn}
    details["setup_s"] = seconds_since_start()
    details["normalisation"] = parts.engine.describe()
    if stored is None:
        tracker.event("start", 0, **details)
        say(f"{parts.last_step} steps of {config.train.global_batch} samples, {config.micro_batches} micro-batches, on {on}")
        for line in introduced(config, parts):
            say(line)
        if parts.loaded is not None:
            say(f"phalanx: {parts.loaded}")
        hints = [
            average_without_ramp(config.train, parts.last_step, bool(parts.engine.statistics.layers)),
            no_tensor_cores(config.dist.precision, precision.has_tensor_cores(world.device)),
        ]
        for hint in filter(None, hints):
            say(f"phalanx: {hint}")
            tracker.event("warning", 0, reason=hint)
        return
    if before is not None and (changed := changes(before, config, "bookkeeping")) is not None:
        say(f"phalanx: changed from now on: {changed}")
    resized = _resized(config, before or config, stored, world, parts, tracker)
    tracker.event("resume", stored.step, samples=stored.samples, **details, report=resized.to_json())
    if stored.world_size != ranks:
        tracker.event("resize", stored.step, before=stored.world_size, after=ranks)
    for line in resized.lines():
        say(line)
    if before is not None and depends_on_length(config.schedule):
        old = length(before, parts.stream.samples)
        if old != parts.last_step:
            epoch, optim = steps_of_epoch(config, parts.stream.samples), scaled(config.optim, config.train.global_batch)
            rates = [learning_rate(optim, config.schedule, n, epoch)(stored.step) for n in (old, parts.last_step)]
            say(
                f"phalanx: the run is {parts.last_step} steps long instead of {old}, and schedule.name={config.schedule.name} "
                f"depends on it: the learning rate at step {stored.step} is {rates[1]:.4g} instead of {rates[0]:.4g}"
            )


def _resized(
    config: RunConfig, before: RunConfig, stored: Manifest, world: World, parts: Parts, tracker: Tracker
) -> ResumeReport:
    on_node, samples = world.ranks.local_world, parts.stream.samples
    now = Setting(config, world.ranks.world, parts.last_step, on_node)
    return ResumeReport(
        stored, as_written(stored, before, length(before, samples), on_node), now, samples, tracker.already_logged
    )
