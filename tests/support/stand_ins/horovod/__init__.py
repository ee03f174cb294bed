"""See `horovod.torch`."""
