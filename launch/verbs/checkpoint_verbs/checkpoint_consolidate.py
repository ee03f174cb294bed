"""phalanx checkpoint consolidate RUN [--step N | --best] -o FILE.safetensors [--ema] [--with-optimizer]"""

from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.consolidate import consolidate, description_file, model_keys, origin_of, refuse_output
from phalanx.dist.checkpoint.tools.contents import NoAverages
from phalanx.launch.arguments import Parser, add_which, asked_checkpoint


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx checkpoint consolidate", description="Writes one safetensors file of weights, and a JSON beside it."
    )
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_which(parser)
    parser.add_argument("-o", "--output", metavar="FILE.safetensors", help="the file to write")
    parser.add_argument("--ema", action="store_true", help="write the averaged weights (EMA) instead of the trained ones")
    parser.add_argument("--with-optimizer", action="store_true", help="write the state of the optimizer too")
    given = parser.parse_args(arguments)
    if given.output is None:
        raise UserError("consolidate needs -o FILE.safetensors, the file to write.")
    run, output = choose.run_at(given.run), Path(given.output)
    refuse_output(output, run.checkpoints)
    path = asked_checkpoint(run, given)
    try:
        keys = model_keys(run.read_config(), manifest.read(path))
        count = consolidate(path, output, given.with_optimizer, given.ema, keys, origin_of(run))
    except BrokenCheckpoint as broken:
        raise UserError(f"{path} is broken: {broken}. Choose another step.") from None
    except NoAverages as lacking:
        raise UserError(f"{path}: {lacking}. Leave out --ema.") from None
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}. Choose another folder.") from None
    print(f"{output}: {count} tensors of {path}, described in {description_file(output)}")
    return ExitCode.DONE
