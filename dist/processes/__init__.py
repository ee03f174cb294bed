"""The processes of a run on one machine: environment, start, signals, output, temporary folders."""
