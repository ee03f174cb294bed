"""Runs on a pretended CUDA device (`benchmarks/support/fake_cuda`), and the tests of the device itself.

    python -m tests.fake_cuda --all --results FILE.jsonl    every network x precision x memory format
    python -m tests.fake_cuda --renew                       counts the host's waits anew

Pretending changes torch for a whole process, so everything runs in one of its own (`worker`), which is asked for one run after
another.
"""
