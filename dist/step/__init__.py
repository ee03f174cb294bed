"""The parts of one optimizer step: the message between the ranks, the global loss, the loss scale, the step's metrics."""
