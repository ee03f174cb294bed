"""From a stored sample to what the network sees: geometry, colour, and mixtures of several samples."""
