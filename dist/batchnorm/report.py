"""The normalisation layers of a model: a table of the samples that each sees, and a refusal of single values."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from phalanx.configs.errors import UserError
from phalanx.dist.batchnorm.sync_batchnorm import SyncBatchNorm
from phalanx.dist.microbatches.forward_passes import ForwardPass

_FEW = 8  # samples per statistic: Wu and He, Group Normalization, ECCV 2018 (arXiv:1803.08494), figure 1


def refuse_one_value(name: str, layer: _BatchNorm, x: Tensor, forward_pass: ForwardPass, group_size: int) -> None:
    values = x.numel() // x.shape[1] if x.dim() > 1 else 0
    if not layer.training or forward_pass.is_filler or values * group_size != forward_pass.size:
        return
    raise UserError(
        f"the BatchNorm layer {name} sees one value per channel ({list(x.shape)}), which has no variance. "
        "Raise train.micro_batch or data.image_size, or set dist.sync_bn=all (either is another experiment)."
    )


def describe_normalisation(model: nn.Module, group_size: int, micro_batch: int) -> list[str]:
    """The table printed as a run starts: which layers share statistics, which are frozen or unchanged, what each sees."""
    rows: dict[tuple[str, str], int] = {}
    few = f", which is noisy below {_FEW}" if micro_batch * group_size < _FEW else ""
    alone = f"{micro_batch} samples, 1 micro-batch{few}"
    shared = f"{micro_batch * group_size} samples, {group_size} micro-batches{few}"
    independent = 0
    for module in model.modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # torchvision's; other libraries call theirs the same
            row = ("BatchNorm, frozen", "nothing: its statistics are constants")
        elif getattr(module, "statistics_are_frozen", False):
            row = ("BatchNorm, frozen statistics", "nothing: its statistics are constants, its factors are trained")
        elif isinstance(module, _BatchNorm):
            how = "converted" if isinstance(module, SyncBatchNorm) else "left as it is"
            row = (
                f"BatchNorm, {'merged' if group_size > 1 and how != 'converted' else how}",
                shared if group_size > 1 else alone,
            )
        elif isinstance(module, _InstanceNorm | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            independent += 1
            continue
        else:
            continue
        rows[row] = rows.get(row, 0) + 1
    lines = [f"{name:31} {count:4} layers   each statistic sees {sees}" for (name, sees), count in sorted(rows.items())]
    if independent:
        lines.append(
            f"{'LayerNorm, GroupNorm and others':31} {independent:4} layers   need nothing: they see one sample at a time"
        )
    return lines
