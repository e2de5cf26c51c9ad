"""Child processes of one machine: start, watch, signal and stop them; once, for all rooms.

`child` supervises a process, `environment` says which variables it gets, `identity` recognises a
process by more than its pid, `ports` finds a free port, `service_error` is the error of them all.
"""
