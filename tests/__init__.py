"""The tests, which mirror the rooms."""

import os

# As a rank has. Parts of the suite run beside each other, and threads that wait for one another on the same cores spin: a step
# of a small network took thirty times the processor time. Commands that tests start have an environment of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
