"""Tests of the room `dist`."""
