"""Code locations and their jobs and schedules.

`workspace.yaml` names the code locations `tuning` and `serving`; the `dg` command loads both at
once, as `definitions`. `walkthrough` is what `make run` runs.
"""
