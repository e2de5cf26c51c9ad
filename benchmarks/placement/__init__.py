"""`python -m benchmarks.placement`."""
