"""Both halves at once, for the `dg` command: `[tool.dg]` in pyproject.toml names this module."""

import dagster as dg

from maitre.settings import Settings
from pipelines.code_location import code_location
from pipelines.serving import serving_half
from pipelines.tuning import tuning_half


@dg.definitions
def defs() -> dg.Definitions:
    """Return both halves as one code location; read the settings."""
    settings = Settings.read()
    return code_location(settings, tuning_half(settings), serving_half(settings))
