"""Inspecting the data before training: checks, overviews, contact sheets."""
