"""Files that survive kills and full disks: the run directory, atomic writes, JSON lines."""
