"""A rank that evaluates a checkpoint of a run, alone or in an ensemble."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from phalanx.dist.processes import output


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates as the rank set by the environment; returns its exit code."""
    from phalanx.configs.errors import ExitCode
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.processes.environment import Ranks
    from phalanx.launch import rank
    from phalanx.launch.arguments import Parser, add_asked, add_config, resumed
    from phalanx.launch.importing import importing

    parser = Parser(prog="phalanx.launch.evaluate", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_config(parser)
    add_asked(parser)
    given: list[Namespace] = []

    def configure() -> RunConfig:
        given.append(parser.parse_intermixed_args(arguments))
        return resumed(given[0].run, given[0].config)

    def work(config: RunConfig, ranks: Ranks) -> ExitCode:
        with importing():
            from phalanx.train.evaluation.evaluate_run import Evaluation, Request, evaluate_run

        def report(found: Evaluation, problem: str | None) -> None:
            for note in found.notes:
                print(f"phalanx: {note}", file=sys.stderr, flush=True)
            if problem is not None:
                print(f"phalanx: {problem}", file=sys.stderr, flush=True)
            if given[0].json:
                print(json.dumps(found.to_json()), flush=True)
                return
            listed = "  ".join(f"{name} {value:.4f}" for name, value in found.metrics.items())
            count = f", {len(found.checkpoints)} networks in an ensemble" if len(found.checkpoints) > 1 else ""
            print(f"step {found.step}{count}: {listed}", flush=True)

        request = Request(given[0].step, given[0].best, given[0].also, given[0].results, given[0].split)
        code = evaluate_run(config, ranks, request, report)
        # Only the rank that wrote output can report its loss to the command that started the ranks.
        return ExitCode.FAILED if not code and ranks.is_main and output.reports_lost_output() else code

    return rank.run(configure, work)


if __name__ == "__main__":
    sys.exit(main())
