"""Entry points: the `phalanx` command, and the modules that launchers run."""
