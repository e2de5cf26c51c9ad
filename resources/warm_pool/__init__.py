"""Warm workers: processes that hold a base model and run Dagster's tuning runs without a start-up.

`server` is the worker's process, `launcher` hands it runs, `placements` says who holds which run,
`pool` and its backends list, grow and shrink the workers, `tick` is one round of the scheduler.
"""
