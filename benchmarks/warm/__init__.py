"""Measures the warm workers with the live system on this machine."""
