"""Jobs and schedules, one module per code location."""
