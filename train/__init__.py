"""Training: the loop, the tasks, optimizers, schedules and tracking."""
