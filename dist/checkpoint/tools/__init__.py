"""What the commands do with finished checkpoints: list, choose, verify, compare, consolidate, fork."""
