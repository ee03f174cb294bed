"""See `apex.amp` and `apex.parallel`."""
