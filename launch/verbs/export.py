"""phalanx export RUN|FILE.safetensors -o OUT.onnx|.pt2|.safetensors [--step N | --best]"""

import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, TrainingFailed, UserError
from phalanx.dist.checkpoint.tools import choose
from phalanx.launch.arguments import Parser, add_which, asked_checkpoint
from phalanx.launch.importing import importing

_FORMATS = (".onnx", ".pt2", ".safetensors")


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx export",
        description="Writes a trained network for other programs: ONNX, torch.export (.pt2), or weights that describe "
        "themselves (.safetensors). A graph has the normalisation within, is checked against torch, and has a script beside "
        "it that uses it.",
    )
    parser.add_argument("source", metavar="RUN | FILE.safetensors", help="the run directory, or a file of weights")
    parser.add_argument("-o", "--output", metavar="OUT", help="the file to write; its suffix is the format")
    add_which(parser)
    given = parser.parse_args(arguments)
    if given.output is None:
        raise UserError("export needs -o OUT.onnx, OUT.pt2 or OUT.safetensors, the file to write.")
    output, source = Path(given.output), Path(given.source)
    _refuse(output, source)
    if source.is_file() and (given.best or given.step is not None):
        raise UserError(f"{source}: a file holds one network. Leave out --best and --step, or give the run.")
    checkpoint = None if source.is_file() else asked_checkpoint(choose.run_at(given.source), given)
    with importing():
        from phalanx.train.evaluation.described_file import described
        from phalanx.train.exporting.export_run import export
    try:
        if checkpoint is None:
            config, data = described(source)
            lines = export(config, source, output, data)
        else:
            lines = export(choose.run_at(given.source).read_config(), checkpoint, output)
    except TrainingFailed as error:
        print(f"phalanx: {error}", file=sys.stderr)
        return ExitCode.FAILED
    print("\n".join(lines))
    return ExitCode.DONE


def _refuse(output: Path, source: Path) -> None:
    """Refuses an output that cannot be written, before anything is read."""
    if output.suffix not in _FORMATS:
        raise UserError(f"-o {output}: the formats are {', '.join(_FORMATS)}. Name {output.with_suffix('.onnx')}.")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.parent}. Make it, or choose another folder.")
    if output.is_dir() or (output.exists() and source.exists() and output.samefile(source)):
        problem = "this is a folder" if output.is_dir() else "this is the file to read"
        raise UserError(f"-o {output}: {problem}. Choose another name.")
