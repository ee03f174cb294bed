"""phalanx config CONFIG.yaml [MORE.yaml ...] [key=value ...] | phalanx config --keys"""

import json
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.launchers.statement import shown
from phalanx.configs.load import filled, split_arguments, to_yaml
from phalanx.configs.schema import RunConfig, digest, flat, keys
from phalanx.configs.strategies import DEEPSPEED
from phalanx.launch.arguments import Parser, add_config, recipe
from phalanx.train.setup.checks import check_recipe


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx config", description="Prints the resolved recipe, or every key that recipes have.")
    add_config(parser)
    parser.add_argument("--keys", action="store_true", help="print every key with type, default, tag and meaning")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--deepspeed", action="store_true", help="print the settings that DeepSpeed receives, as JSON")
    parser.add_argument("--groups", action="store_true", help="print the optimizer's groups of parameters; opens the data")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the learning rate over the run; opens the data")
    given = parser.parse_intermixed_args(arguments)
    if given.keys:
        _print_keys(given.json)
        return 0
    config = recipe(given.config)
    check_recipe(config)
    if given.deepspeed:
        _print_deepspeed(config)
    elif given.groups or given.plot:
        from phalanx.launch import config_optim  # imports torch

        if given.groups:
            config_optim.print_groups(config)
        if given.plot:
            config_optim.plot(config, Path(given.plot))
    elif given.json:
        print(json.dumps(flat(config) | {"digest": digest(config)}, indent=1))
    else:
        print(f"# experiment {digest(config)}, {config.micro_batches} micro-batches per step")
        for said in filled(*split_arguments(given.config)):
            print(f"# {said.key}={shown(said.value)} from {said.origin} ({said.written})")
        print(to_yaml(config), end="")
    return 0


def _print_deepspeed(config: RunConfig) -> None:
    if config.dist.strategy not in DEEPSPEED:
        raise UserError(f"dist.strategy={config.dist.strategy} does not run DeepSpeed. Set one of: {', '.join(DEEPSPEED)}.")
    from phalanx.dist.strategies.deepspeed_config import settings

    print(json.dumps(settings(config), indent=1))


def _print_keys(as_json: bool) -> None:
    listed = list(keys())
    if as_json:
        print(json.dumps([vars(key) for key in listed], indent=1))
        return
    for key in listed:
        default = "required" if key.required else f"default {json.dumps(key.default)}"
        print(f"{key.name}  ({key.kind}, {default}; {key.tag})\n    {key.meaning}")
