"""One trainer per run directory."""
