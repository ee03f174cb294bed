"""Looking at the data before training: checks, overviews, contact sheets."""
