"""Child processes of this machine.

`child` starts, signals and stops a process, `environment` defines its variables, `identity`
distinguishes processes with the same pid, `ports` finds a free port, and `service_error` is the
error of a server process.
"""
