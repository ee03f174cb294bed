"""Detecting ranks that hang or fail, and reporting which and why."""
