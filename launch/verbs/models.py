"""phalanx models [NAME] [--kind K] [--json]"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.own_code import load_own
from phalanx.launch.arguments import Parser
from phalanx.models import registry
from phalanx.models.spec import ModelSpec


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx models", description="Lists the networks that model.name can name, or describes one.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the network to describe; your own too: ./file.py:Class")
    parser.add_argument("--kind", metavar="KIND", help=f"list only networks of one kind: {', '.join(_kinds())}")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of objects")
    given = parser.parse_args(arguments)
    if given.name is not None:
        facts = _one(given.name)
        print(json.dumps([facts], indent=1) if given.json else "\n".join(_details(facts)))
        return ExitCode.DONE
    if given.kind not in (None, *_kinds()):
        raise UserError(f"--kind {given.kind}: there is no such kind of network. There are: {', '.join(_kinds())}.")
    found = {name: registry.MODELS[name] for name in registry.names(given.kind)}
    if given.json:
        print(json.dumps([_as_dict(name, spec) for name, spec in found.items()], indent=1))
    else:
        print("\n".join(_table(found)))
    return ExitCode.DONE


def _kinds() -> list[str]:
    return list(dict.fromkeys(spec.kind for spec in registry.MODELS.values()))


def _as_dict(name: str, spec: ModelSpec) -> dict[str, Any]:
    """A network's entry in the table; imports nothing."""
    return {
        "name": name,
        "kind": spec.kind,
        "params": spec.params,
        "params_training": spec.params_training or spec.params,
        "source": spec.source,
        "score": spec.score,
        "score_of": f"{spec.score_of} in per cent, {spec.weights[0]}" if spec.weights else None,
        "weights": list(spec.weights),
        "options": [f"model.{key}" for key in spec.takes],
        "own_options": {key: {"default": option.default, "meaning": option.meaning} for key, option in spec.own.items()},
        "backbone": spec.backbone,
        "backbones": list(spec.backbones),
        "classes": spec.classes,
        "channels": list(spec.channels),
        "strides": list(spec.strides),
        "smallest_image": spec.smallest,
        "patch": spec.patch,
    }


def _one(name: str) -> dict[str, Any]:
    """A network's entry in the table, and what building it without memory shows."""
    try:
        spec = registry.get(name)
        spec.check()
        if spec.is_own:
            registry.register(name, load_own("model.name", name))
        network = _built(spec)
    except (registry.UnknownModel, registry.BadOption) as error:
        raise UserError(str(error)) from None
    built = {"blocks": list(network.block_names)}
    if name in registry.MODELS:
        return _as_dict(name, registry.MODELS[name]) | built
    params = sum(parameter.numel() for parameter in network.parameters())
    if spec.is_own:
        return {"name": name, "kind": "own", "params": params, "source": "your own", "weights": []} | built
    if spec.is_smp:
        return {"name": name, "kind": spec.kind, "params": params, "source": spec.params_source, "weights": []} | built
    return {"name": name, "kind": "backbone", "params": params, "source": "timm", "weights": ["timm"]} | built


def _built(spec: ModelSpec) -> Any:
    """The network without memory; with it, if it computes with its tensors as it is built."""
    import torch

    try:
        with torch.device("meta"):
            return spec.build()
    except (RuntimeError, NotImplementedError):
        if not spec.is_unknown:
            raise
        return spec.build()


def _table(found: Mapping[str, ModelSpec]) -> list[str]:
    rows = [("name", "kind", "parameters", "score", "source")]
    rows += [(name, e.kind, f"{e.params:,}", _number(e.score), e.source) for name, e in found.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for name, kind, params, score, source in rows:
        numbers = f"{params:>{widths[2]}}  {score:>{widths[3]}}"
        lines.append(f"{name:{widths[0]}}  {kind:{widths[1]}}  {numbers}  {source}")
    return [
        *lines,
        "",
        "parameters: for 1000 classes, of segmentation for 21, of detection for COCO's 80, or 91 as torchvision counts them.",
        "score: of torchvision's default weights, as it documents them, in per cent: top-1 accuracy on ImageNet-1K; for",
        "segmentation mIoU on COCO's images of VOC's classes; for detection box AP on COCO val2017.",
        "timm/NAME is any network of timm, where that is installed. `phalanx models NAME` says more of one.",
    ]


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _details(facts: Mapping[str, Any]) -> list[str]:
    lines = {
        "name": facts["name"],
        "kind": facts["kind"],
        "parameters": _parameters(facts),
        "source": facts["source"],
        "score": f"{facts['score']:.2f}, {facts['score_of']}" if facts.get("score") is not None else "",
        "model.weights": ", ".join(_weights(facts["weights"])),
        "options": ", ".join(facts.get("options", [])),
        "model.options": "; ".join(_own(facts.get("own_options", {}))),
        "model.backbone": _backbones(facts),
        "features": _maps(facts),
        "blocks": _blocks(facts["blocks"]),
        "images": _images(facts),
    }
    return [f"{key:14} {value}" for key, value in lines.items() if value]


def _parameters(facts: Mapping[str, Any]) -> str:
    auxiliary = facts.get("params_training", facts["params"]) - facts["params"]
    return f"{facts['params']:,}" + (f", and {auxiliary:,} in auxiliary heads in training" if auxiliary else "")


def _own(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(option['default'])}, {option['meaning']}" for key, option in options.items()]


def _backbones(facts: Mapping[str, Any]) -> str:
    if "model.backbone" not in facts.get("options", []):
        return facts.get("backbone") or ""
    own = facts["backbone"] or "none, which is the paper's network"
    return f"{own} if it is not set; {', '.join(facts['backbones']) or 'any'}"


def _weights(versions: Sequence[str]) -> list[str]:
    if not versions:
        return []
    return list(versions) if versions == ["timm"] else ["torchvision", *(f"torchvision/{version}" for version in versions)]


def _maps(facts: Mapping[str, Any]) -> str:
    pairs = zip(facts.get("channels", []), facts.get("strides", []), strict=True)
    return ", ".join(f"{channels} channels at stride {stride}" for channels, stride in pairs)


def _blocks(names: Sequence[str]) -> str:
    return f"{len(names)}, from {names[0]} to {names[-1]}, which FSDP2 gathers one at a time" if names else ""


def _images(facts: Mapping[str, Any]) -> str:
    if "smallest_image" not in facts:
        return ""
    smallest, patch = facts["smallest_image"], facts["patch"]
    return f"of {smallest} x {smallest} pixels or more" + (f", sides in multiples of {patch}" if patch > 1 else "")
