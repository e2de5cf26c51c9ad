"""What the jobs of both code locations share: how they log on a terminal."""

from typing import Any

from pipelines.terminal_log import terminal_log

LOGGERS = {"terminal": terminal_log}

# Run configuration that tells progress on the terminal and leaves Dagster's own events out.
TERMINAL_RUN_CONFIG: dict[str, Any] = {"loggers": {"terminal": {}}}
