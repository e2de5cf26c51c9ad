"""Warm workers: processes that hold a base model and run Dagster's tuning runs without a start-up.

`server` is the worker's process, `launcher` hands it runs, `leases` says who holds which run,
`group` lets several tune one run, `pool` and its backends list, grow and shrink the workers,
`scheduler` is one round of decisions, `watch` a tick of such rounds, `tick` their record.
"""
