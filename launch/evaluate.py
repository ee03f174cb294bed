"""A rank that evaluates the newest checkpoint of a run."""

import json
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates as the rank that the environment says; returns its exit code."""
    from phalanx.configs.errors import ExitCode
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.environment import Ranks
    from phalanx.launch import rank
    from phalanx.launch.arguments import Parser, add_config, resumed

    parser = Parser(prog="phalanx.launch.evaluate", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json: list[bool] = []

    def configure() -> RunConfig:
        given = parser.parse_intermixed_args(arguments)
        as_json.append(given.json)
        return resumed(given.run, given.config)

    def report(step: int, metrics: dict[str, Any]) -> None:
        if as_json[0]:
            print(json.dumps({"step": step} | metrics), flush=True)
        else:
            print(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True)

    def work(config: RunConfig, ranks: Ranks) -> ExitCode:
        from phalanx.train.start import evaluate_run

        return evaluate_run(config, ranks, report)

    return rank.run(configure, work)


if __name__ == "__main__":
    sys.exit(main())
