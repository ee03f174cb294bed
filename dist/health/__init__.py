"""Noticing ranks that hang or fail, and saying which and why."""
