"""The command line `maitre`: one module a command group, no logic of its own.

It stands on top of the whole project and may import any part; nothing imports it. Heavy libraries
are imported inside commands, so that `--help` answers at once.
"""
