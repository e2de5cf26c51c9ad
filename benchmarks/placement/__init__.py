"""`python -m benchmarks placement`."""
