"""The route file: which servers answer for an adapter, and with which share.

Gateways and the local proxy read it. Each write replaces the whole file, so a reader never sees a
part of it:

    {"servers": {NAME: {"url": ..., "base_model": ...}},
     "adapters": {ADAPTER: {NAME: share}},
     "prompts": {MODEL: {"folder": ..., "base_model": ...}}}

`prompts` maps the model names of tuned soft prompts to their folders. Servers do not know these
names; the proxy adds the prompt to a request to the base model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from maitre.errors import UserError


@dataclass(frozen=True)
class RoutedServer:
    """A server's address and its base model's name."""

    url: str
    base_model: str


@dataclass(frozen=True)
class RoutedPrompt:
    """A tuned soft prompt's folder and the base model it is for."""

    folder: str
    base_model: str


@dataclass(frozen=True)
class Routes:
    """The content of a route file. Shares are weights: they need not sum to 1."""

    servers: Mapping[str, RoutedServer] = field(default_factory=dict)
    adapters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    prompts: Mapping[str, RoutedPrompt] = field(default_factory=dict)

    def servers_for(self, model: str) -> dict[str, float]:
        """Return the servers and weights of a model name: an adapter, a prompt or a base model.

        The result is empty when no server serves the model.
        """
        if model in self.adapters:
            return {
                name: share for name, share in self.adapters[model].items() if name in self.servers
            }
        base = self.prompts[model].base_model if model in self.prompts else model
        return {name: 1.0 for name, server in self.servers.items() if server.base_model == base}

    def models(self) -> list[str]:
        """Return every model name that has a server."""
        bases = {server.base_model for server in self.servers.values()}
        return sorted(
            name for name in {*bases, *self.adapters, *self.prompts} if self.servers_for(name)
        )

    def to_json(self) -> str:
        """Return the text of the route file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def read_routes(path: Path) -> Routes:
    """Return the routes of a file; none when there is no file.

    Raises:
        UserError: the file is not a route file.
    """
    if not path.is_file():
        return Routes()
    try:
        document = json.loads(path.read_text())
        return Routes(
            servers={name: RoutedServer(**entry) for name, entry in document["servers"].items()},
            adapters={
                name: {server: float(share) for server, share in shares.items()}
                for name, shares in document["adapters"].items()
            },
            prompts={
                name: RoutedPrompt(**entry) for name, entry in document.get("prompts", {}).items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected a route file; got {error}") from error
