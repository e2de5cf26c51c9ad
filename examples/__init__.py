"""What `make run` and the benchmarks work on: tasks, an adapter catalogue."""
