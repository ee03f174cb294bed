"""The tests, which mirror the rooms."""

import os
from pathlib import Path

# As a rank has. Parts of the suite run beside each other, and threads that wait for one another on the same cores spin: a step
# of a small network took thirty times the processor time. Commands that tests start have an environment of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The narrow network of most tests, for those in this process; `support/running.py` has the same for commands.
os.environ["PHALANX_OWN_CODE"] = str(Path(__file__).parents[1] / "benchmarks/support/narrow")
