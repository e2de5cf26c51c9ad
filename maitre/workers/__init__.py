"""Warm workers: processes that hold a base model and execute tuning runs without a start-up.

`process` is the worker's process, `launch` gives runs to workers through Dagster, `pool` lists,
starts and stops workers, and `scheduling` decides what runs where. `leases` records which worker
holds which run; `local_services` starts the servers of one machine.
"""
