"""Phalanx: distributed training of vision models, where an experiment is not its hardware.

The rooms are imported by name: `phalanx.configs`, `phalanx.dist`, `phalanx.models`, `phalanx.data`,
`phalanx.train`, `phalanx.launch`, `phalanx.slurm`. This module imports nothing heavy.
"""

__version__ = "0.1.0"
