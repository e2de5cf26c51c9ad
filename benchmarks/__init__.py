"""Benchmarks: each prints its figures beside the reach; `python -m benchmarks` lists them."""
