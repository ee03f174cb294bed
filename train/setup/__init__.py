"""Setting a run up, new or resumed: checks, parts, the checkpoint to resume from."""
