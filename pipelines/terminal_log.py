"""A Dagster logger that prints what assets log on a terminal, without Dagster's own events."""

import logging
import time
from typing import Any

import dagster as dg
from rich.console import Console


class _TerminalHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._started_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        if meta.get("dagster_event") is not None:
            return
        elapsed_s = int(time.monotonic() - self._started_s)
        step = meta.get("step_key") or ""
        text = meta.get("orig_message") or record.getMessage()
        self._console.print(
            f"[dim]{elapsed_s // 60:3d}:{elapsed_s % 60:02d}[/dim] [cyan]{step:<16}[/cyan] {text}",
            highlight=False,
            soft_wrap=True,
        )


@dg.logger({}, description="Progress on a terminal, without Dagster's own events.")
def terminal_log(_context: dg.InitLoggerContext) -> logging.Logger:
    """Print one line per message: time since the process's first message, step, text."""
    log = logging.getLogger("maitre.terminal")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        log.addHandler(_TerminalHandler(Console()))
    return log


LOGGERS = {"terminal": terminal_log}

TERMINAL_RUN_CONFIG: dict[str, Any] = {"loggers": {"terminal": {}}}
"""Run configuration that prints progress on the terminal."""
