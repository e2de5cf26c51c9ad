"""Measures the capacity model and the placement."""
