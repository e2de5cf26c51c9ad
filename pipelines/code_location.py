"""Build a code location from the folders that it consists of."""

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import dagster as dg

from maitre.settings import Settings
from pipelines.terminal_log import LOGGERS
from resources.wiring import resources


def found_in(package: ModuleType, modules: Sequence[ModuleType]) -> dg.Definitions:
    """Return what a package of assets, and modules of jobs, schedules and sensors, define."""
    with warnings.catch_warnings():
        # Dagster may still change these loaders in a patch release; constraints.txt pins Dagster.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.Definitions.merge(
            dg.load_definitions_from_package_module(package),
            dg.load_definitions_from_modules(modules),
        )


def code_location(
    settings: Settings,
    *parts: dg.Definitions,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Return the parts as one code location, with the resources that the settings describe.

    `resource_overrides` replaces resources by name.
    """
    return dg.Definitions.merge(
        *parts,
        dg.Definitions(
            resources=resources(settings) | dict(resource_overrides or {}), loggers=LOGGERS
        ),
    )
