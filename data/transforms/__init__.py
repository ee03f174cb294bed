"""From a stored sample to the network's input: geometry, colour, and mixtures of several samples."""
