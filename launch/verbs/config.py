"""phalanx config CONFIG.yaml [MORE.yaml ...] [key=value ...] | phalanx config --keys"""

import json
from collections.abc import Sequence

from phalanx.configs.load import to_yaml
from phalanx.configs.schema import digest, flat, keys
from phalanx.launch.arguments import Parser, add_config, recipe


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx config", description="Prints the resolved recipe, or every key there is.")
    add_config(parser)
    parser.add_argument("--keys", action="store_true", help="every key: type, default, tag, meaning")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    if given.keys:
        _print_keys(given.json)
        return 0
    config = recipe(given.config)
    if given.json:
        print(json.dumps(flat(config) | {"digest": digest(config)}, indent=1))
    else:
        print(f"# experiment {digest(config)}, {config.micro_batches} micro-batches a step\n{to_yaml(config)}", end="")
    return 0


def _print_keys(as_json: bool) -> None:
    listed = list(keys())
    if as_json:
        print(json.dumps([vars(key) for key in listed], indent=1))
        return
    for key in listed:
        default = "required" if key.required else f"default {json.dumps(key.default)}"
        print(f"{key.name}  ({key.kind}, {default}; {key.tag})\n    {key.meaning}")
