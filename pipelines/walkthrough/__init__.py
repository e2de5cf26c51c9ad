"""`make run`: the whole graph on this machine, then one tuning request and a summary."""
