"""Tests of the room `configs`."""
