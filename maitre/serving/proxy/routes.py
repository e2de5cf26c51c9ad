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
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, Field, TypeAdapter, ValidationError

from maitre.errors import UserError

logger = logging.getLogger(__name__)


_HTTP_URL = TypeAdapter(AnyHttpUrl)


def _check_url(text: str) -> str:
    _HTTP_URL.validate_python(text)
    return text


HttpUrl = Annotated[str, AfterValidator(_check_url)]
"""An http or https address, kept as it is written."""
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class RoutedServer:
    """A server's address and its base model's name."""

    url: HttpUrl
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
    adapters: Mapping[str, Mapping[str, Weight]] = field(default_factory=dict)
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
        return _ROUTES.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: expected a route file; got {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: expected a route file; {where}: {first['msg']}") from error


_ROUTES = TypeAdapter(Routes)


class RouteFile:
    """The routes of a file that may change at any time.

    While the file is damaged the last good routes hold, and `problem` says what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._stamp: tuple[int, int, int] | None = None
        self._routes = Routes()

    def current(self) -> Routes:
        """Return the routes; read the file when it has changed. No file means no routes."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self.problem, self._stamp, self._routes = "", None, Routes()
            return self._routes
        except OSError as error:
            self._report(f"{self.path}: {error.strerror or error}")
            return self._routes
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._routes, self.problem = read_routes(self.path), ""
            except UserError as error:
                self._report(str(error))
        return self._routes

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s; the last good routes hold", problem)
        self.problem = problem
