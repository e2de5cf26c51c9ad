"""The settings of one invocation: read once, when a command first asks for them."""

import os
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from maitre.settings import Settings


def settings_of(context: typer.Context) -> "Settings":
    """Return the settings of this invocation of the command line.

    They are read once and kept in the root context. A command that needs no settings does not fail
    because of a settings file that it never reads.
    """
    from maitre.settings import Settings

    root = context.find_root()
    if root.obj is None:
        root.obj = Settings.read(environment=os.environ)
    settings: Settings = root.obj
    return settings
