"""A loop of your own: `phalanx.Training` gives a script what `phalanx train` has, and the script keeps its loop.

    with phalanx.Training("runs/mine", model, losses, dataset, optimizer, steps=9, global_batch=64, micro_batch=8) as training:
        for step in training:
            for batch in step:
                training.backward(losses(training.model, batch))
            training.update()

The script is started by `accelerate launch`, torchrun or srun, or alone. It is the same run on any number of ranks, under any
strategy, and resumes from its newest checkpoint when it is started again.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from phalanx.configs import own_code
from phalanx.configs.errors import ExitCode, Stopped, TrainingFailed, UserError
from phalanx.configs.load import load
from phalanx.data.loading.loader import Batch, EvaluationLoader, Loader, Samples
from phalanx.dist import heartbeat
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.health import failure_report
from phalanx.dist.microbatches.micro_batch import MicroBatch
from phalanx.dist.microbatches.sampler import Stream, share
from phalanx.dist.processes import environment
from phalanx.dist.processes.children import die_with_parent
from phalanx.dist.processes.stop import StopRequest, ignore_signals
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.loop import after_step
from phalanx.train.optim import swa
from phalanx.train.run import Run
from phalanx.train.setup.build import Parts
from phalanx.train.start import opened
from phalanx.train.tasks import DataInfo, Rows

Pair = tuple[Tensor, float | Tensor]  # a sum over a batch, and what it is divided by
Function = Callable[[nn.Module, Mapping[str, Any]], Pair | Mapping[str, Pair]]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_ONE_LOSS = "loss"


class Training:
    """A run whose loop is in the caller's script. Entering it joins the ranks and restores the newest checkpoint.

    Args:
        directory: the run directory.
        model: with initial weights that are equal on all ranks: seed torch before it is made.
        losses: from the model and a batch, the sum of the loss over the batch and what to divide it by; or several, by name.
        dataset: items are dictionaries of tensors; or pairs, which become `input` and `target`. A batch has them stacked, and
            also `id` and `epoch`, each [B]. Random numbers that an item draws are seeded by its epoch and number.
        optimizer: makes the optimizer from the trained parameters.
        steps: length of the run.
        global_batch: samples in a step, over all ranks.
        micro_batch: samples in a forward pass: what BatchNorm sees.
        schedule: a factor of the optimizer's learning rates, from the number of steps finished before.
        weights: the divisors of losses by name, from a batch's targets alone, where batches differ in them; without it each
            micro-batch counts alike.
        validation: a dataset to evaluate on, by `measure`, every `train.eval_every` steps and at the end.
        measure: sums and divisors as `losses` returns them; their ratios over all of `validation` are logged.
        seed: of the order of samples and of the noise in forwards.
        overrides: other keys of a recipe, such as `["dist.strategy=fsdp", "checkpoint.every_steps=100"]`.

    Attributes:
        model: the wrapped model, to be called in the loop.
        step: number of finished steps.
        is_main: whether this rank acts for all.
    """

    model: nn.Module
    is_main: bool

    def __init__(
        self,
        directory: str | Path,
        model: nn.Module,
        losses: Function,
        dataset: Any,
        optimizer: MakeOptimizer,
        *,
        steps: int,
        global_batch: int,
        micro_batch: int,
        schedule: Callable[[int], float] | None = None,
        weights: Callable[[Mapping[str, Any]], float | Mapping[str, float]] | None = None,
        validation: Any = None,
        measure: Function | None = None,
        seed: int = 0,
        overrides: Sequence[str] = (),
    ):
        if own_code.is_loading():
            raise UserError(
                f"{directory}: the loop of this run is in a script, loaded here to read a class or function from it. Start "
                "the script itself, or keep what other runs use in another file.",
                shared=True,
            )
        self._stack = ExitStack()
        self._bare, self._optimizer, self._schedule = model, optimizer, schedule or (lambda step: 1.0)
        self._task = _Task(losses, weights, measure)
        self._training, self._validation = _Items(dataset), _Items(dataset if validation is None else validation)
        path = Path(directory)
        self._settings = [
            f"name={path.name}", f"runs={path.parent}", f"seed={seed}", "optim.lr=1", "schedule.name=constant",
            f"model.name={__name__}:OwnModel", f"data.name={__name__}:OwnData", f"data.root={_script()}",
            f"task.name={_place(losses, 'Training')}", f"optim.name={_place(optimizer, 'Training')}",
            f"train.steps={steps}", f"train.global_batch={global_batch}", f"train.micro_batch={micro_batch}",
            "data.workers=0", *overrides,
        ]  # fmt: skip
        self._run: Run | None = None
        self._batch: Batch | None = None
        self._rank = 0

    # -- the loop -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> "Iterator[Step]":
        """The steps that are left; after the last one, the run is saved. Exits with code 75 after a stop with a checkpoint."""
        run = self._run
        if run is None:
            return
        run.catch_up()
        if run.best.should_stop:
            run.code = run.done()
            return
        heartbeat.beat("loading", run.state.step + 1)
        for batch in run.loader.from_step(run.state.step, run.last_step):
            self._batch = batch
            yield Step(run, batch)
            if self._batch is not None:
                raise RuntimeError("the loop went on to the next step without training.update()")
            if run.code != ExitCode.FAILED:
                return
            heartbeat.beat("loading", run.state.step + 1)
        run.code = run.done()

    def backward(self, losses: Pair | Mapping[str, Pair]) -> None:
        """The backward of a batch; gradients are summed over the batches and ranks of the step."""
        assert self._run is not None
        self._run.engine.backward(_named(losses))

    def update(self) -> None:
        """Clips, takes the optimizer's step, and logs, saves and evaluates as is due."""
        run, batch = self._run, self._batch
        if run is None or batch is None:
            raise RuntimeError("training.update() was called outside of a step, or twice in one")
        run.saver.wait_for_copy()
        figures, self._batch = run.engine.step(), None
        if (code := after_step(run, batch, figures)) is not None:
            run.code = code

    def log(self, **values: float) -> None:
        """Logs figures of this step, equal on all ranks, as `val/NAME`."""
        if self._run is not None:
            self._run.tracker.evaluation(self._run.state.step, values)

    @property
    def step(self) -> int:
        return 0 if self._run is None else self._run.state.step

    # -- beginning and end ----------------------------------------------------------------------------------------------

    def __enter__(self) -> "Training":
        if "TORCHELASTIC_RUN_ID" in os.environ:
            die_with_parent()
        stop = StopRequest()
        try:
            ranks = environment.find()
            self.is_main, self._rank = ranks.is_main, ranks.rank
            self.config = load([], self._settings)
            if self.config.dist.reduce == "exact" and self.config.dist.sync_bn != "off":
                raise UserError(
                    f"dist.reduce=exact with dist.sync_bn={self.config.dist.sync_bn} runs the forwards of several batches in "
                    "lockstep, which a loop of your own cannot. Set dist.reduce=fast or dist.sync_bn=off, or write a recipe.",
                    shared=True,
                )
            self._run = self._stack.enter_context(opened(self.config, ranks, stop, self._build))
        except (UserError, Stopped) as error:
            self._say(error)
            ignore_signals()
            code = ExitCode.BAD_INPUT if isinstance(error, UserError) else ExitCode.STOPPED_EARLY
            raise SystemExit(int(code)) from None
        if self._run is not None:
            self.model = self._run.engine.model
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if error is None and self._run is not None and self._run.code == ExitCode.FAILED:
                self._run.save(awaited=True)  # the loop was left by `break`, on all ranks after the same step
                self._run.code = self._run.stopped()
            self._stack.__exit__(kind, error, traceback)
        except (UserError, TrainingFailed) as refusal:
            error = refusal
        finally:
            directory = RunDirectory.of(self.config)
            if isinstance(error, Exception) and directory.exists():
                failure_report.write(directory, self._rank, error)
            ignore_signals()  # launchers signal the others after the first exit
        if isinstance(error, UserError | TrainingFailed):
            self._say(error)
            raise SystemExit(int(ExitCode.BAD_INPUT if isinstance(error, UserError) else ExitCode.FAILED)) from None
        if error is None and self._run is not None and self._run.code == ExitCode.STOPPED_EARLY:
            raise SystemExit(int(ExitCode.STOPPED_EARLY))

    def _say(self, error: Exception) -> None:
        if self._rank == 0 or not getattr(error, "shared", False):
            print(f"phalanx: {error}", file=sys.stderr, flush=True)

    def _build(self, world: World, resuming: bool) -> tuple[Parts, Sequence[str]]:
        config, task = self.config, self._task
        workers, pin = config.data.workers, world.device.type == "cuda"
        stream = Stream(len(self._training), config.seed, config.train.global_batch, config.train.micro_batch)
        first: list[float] = []

        def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
            optimizer = self._optimizer(list(parameters.values()))
            # The engine sets a group's rate to that of the step times the group's factor.
            first.append(float(optimizer.param_groups[0]["lr"]))
            for group in optimizer.param_groups:
                group["lr_factor"] = float(group["lr"]) / first[0]
            return optimizer

        assert config.train.steps is not None
        averaged = swa.share_of_new(config, config.train.steps, len(self._training) / config.train.global_batch)
        rate, samples = lambda step: first[0] * self._schedule(step), len(self._training)
        engine = Engine(self._bare, make, rate, config, world, swa=averaged, samples=samples)
        drawn = Samples(self._training, _as_it_is, config.seed)
        mine = share(config.micro_batches, world.ranks.rank, world.ranks.world)
        validated = Samples(self._validation, _as_it_is, config.seed)
        size, rank, ranks = config.train.micro_batch, world.ranks.rank, world.ranks.world
        parts = Parts(
            training=self._training,
            validation=self._validation,
            data_info=DataInfo((), 1, "regression", len(self._training)),
            task=task,
            engine=engine,
            loaded=None,
            loader=Loader(drawn, stream, mine, workers, pin),
            evaluation=EvaluationLoader(validated, len(self._validation), size, rank, ranks, workers, pin),
            stream=stream,
            last_step=config.train.steps,
        )
        return parts, []


class Step:
    """This rank's part of a step: its batches, each set up to run."""

    def __init__(self, run: Run, batch: Batch):
        self._run, self._batch, self._begun = run, batch, False

    def __iter__(self) -> Iterator[MicroBatch]:
        if self._begun:
            raise RuntimeError("the batches of a step are to be run once")
        self._begun = True
        run, batches = self._run, self._batch.micro_batches
        weights = [run.task.weights(batch) for batch in batches]
        flags = {"stop": run.asked_to_stop, "save": run.is_time_to_save}
        inputs = run.engine.micro_batches(run.state.step, batches, weights, **flags)
        return cast(Iterator[MicroBatch], inputs)  # none of several, which Training refuses


class _Task:
    """The script's functions as a task."""

    def __init__(self, losses: Function, weights: Callable[[Mapping[str, Any]], Any] | None, measure: Function | None):
        self._losses, self._weights, self._measure = losses, weights, measure

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        if self._weights is None:
            return {}
        found = self._weights(batch)
        return dict(found) if isinstance(found, Mapping) else {_ONE_LOSS: float(found)}

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Pair]:
        return _named(self._losses(model, batch))

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        if self._measure is None:
            return {"samples": torch.tensor(len(batch["id"]))}
        pairs = _named(self._measure(model, batch))
        return {f"{name} {part}": torch.as_tensor(v) for name, pair in pairs.items() for part, v in enumerate(pair)}

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        names = [] if self._measure is None else [name.removesuffix(" 0") for name in sums if name.endswith(" 0")]
        return {name: sums[f"{name} 0"] / sums[f"{name} 1"] if sums[f"{name} 1"] else 0.0 for name in names}


class _Items:
    """The script's dataset; items are dictionaries."""

    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels, kind = 1, "regression"

    def __init__(self, dataset: Any):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._dataset[index]
        if isinstance(item, Mapping):
            return dict(item)
        if isinstance(item, tuple | list) and len(item) == 2:
            return {"input": item[0], "target": item[1]}
        raise UserError(
            f"item {index} of the dataset is a {type(item).__name__}. Let it be a dictionary of tensors, or a pair of an input "
            "and a target."
        )


def _as_it_is(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def _named(losses: Pair | Mapping[str, Pair]) -> dict[str, Pair]:
    return dict(losses) if isinstance(losses, Mapping) else {_ONE_LOSS: losses}


class OwnData:
    """Stands for the script's dataset in config.yaml, for verbs that would open it."""

    def __init__(self, root: str, split: str):
        raise UserError(
            f"the loop of this run is in the script {root}. Start the script again: it resumes the run, and evaluates it.",
            shared=True,
        )


class OwnModel(nn.Module):
    """Stands for the script's network in config.yaml, for verbs that would build it."""

    def __init__(self) -> None:
        raise UserError(
            "the network of this run was made by a script with a loop of its own (data.root). Make it there, and load what "
            "`phalanx checkpoint consolidate` writes.",
            shared=True,
        )


def _script() -> str:
    """The file that was started, from the current folder. Python keeps its full path, since a script may change its folder."""
    path = getattr(sys.modules["__main__"], "__file__", None) or ""
    return f"./{os.path.relpath(path)}" if path.endswith(".py") else sys.argv[0] or "python"


def _place(function: Any, otherwise: str) -> str:
    """The name of a function for config.yaml, as a recipe names a user's own: an edited file is noticed."""
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", None)
    if module != "__main__" or not _script().endswith(".py") or not name.isidentifier():
        return f"{__name__}:{otherwise}"
    return f"{_script()}:{name}"
