"""Fuzzing of every door through which something from outside comes in. See docs/hardening.md.

An input is accepted, or refused with one sentence; never a traceback, a hang, a dead process, or a parser's own words.
"""
