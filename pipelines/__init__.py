"""Code locations: each module with a `defs` is one; jobs and schedules beside them.

`tuning` and `serving` are what `workspace.yaml` names. `walkthrough` is what `make run` runs.
"""
