"""What scripts of before import and cannot be installed here: Apex and Horovod are compiled for CUDA or for an MPI.

Each has as much of the interface as `examples/migrating` uses, computed by torch over gloo, so that the scripts run and what
they save is loaded. They say nothing of the real packages beyond that.
"""
