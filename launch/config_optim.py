"""`phalanx config --groups` and `--plot`: the parameter groups of the optimizer, and the learning rate over the run."""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.open import open_split
from phalanx.train.optim import schedules
from phalanx.train.pictures.line_chart import Line, line_chart
from phalanx.train.setup.build import length, steps_of_epoch

_POINTS = 2000  # of the curve
_NAMES = 3  # of the parameters of a group


def print_groups(config: RunConfig) -> None:
    """Prints a line per group of parameters with the same learning rate and weight decay: how many, and some of their names."""
    from phalanx.train.optim.optimizers import group_settings
    from phalanx.train.setup.build import build_local

    model = build_local(config, resuming=True).model
    optim = schedules.scaled(config.optim, config.train.global_batch)
    settings = group_settings(optim, model, config.schedule.warmup_bias_lr is not None)
    trained = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: dict[tuple[float, float], list[str]] = {}
    for name in trained:
        groups.setdefault((settings[name]["lr_factor"], settings[name]["weight_decay"]), []).append(name)
    print(f"# {sum(trained.values()):,} trained parameters in {len(groups)} groups; optim.lr={optim.lr:g}")
    for (factor, decay), names in sorted(groups.items()):
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        size = sum(trained[name] for name in names)
        print(f"lr {optim.lr * factor:<10.4g} weight decay {decay:<8g} {size:>13,}  {', '.join(names[:_NAMES])}{more}")


def plot(config: RunConfig, path: Path) -> None:
    """Draws the learning rate over the run's steps.

    Raises:
        UserError: if the picture cannot be written.
    """
    samples = len(open_split(config.data, "train", config.seed))
    last = length(config, samples)
    rate = schedules.learning_rate(
        schedules.scaled(config.optim, config.train.global_batch), config.schedule, last, steps_of_epoch(config, samples)
    )
    steps = sorted({round(number * (last - 1) / max(1, _POINTS - 1)) for number in range(_POINTS)})
    title = f"{config.name}: schedule.name={config.schedule.name}, {last} steps"
    picture = line_chart([Line("learning rate", steps, [rate(step) for step in steps])], title, "step", "learning rate")
    try:
        with open(path, "wb") as file:
            picture.save(file, format="PNG")
    except OSError as error:
        raise UserError(f"--plot {path}: {error.strerror}. Name a file that can be written.") from None
    print(path)
