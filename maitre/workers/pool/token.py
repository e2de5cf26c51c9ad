"""The token that the launcher and the workers share."""

import re
import secrets

from maitre.errors import UserError, reading
from maitre.files import create_text
from maitre.settings import Settings

MIN_TOKEN_LENGTH = 16
_TOKEN = re.compile(r"[!-~]+")


class TokenError(UserError):
    """The token of the workers cannot be used; the message says where it comes from."""


def read_token(settings: Settings) -> str:
    """Return the token of the settings, or that of a file in the home, which is made if missing.

    Raises `TokenError` for a token that is too short or cannot be sent in a header: a worker with
    an empty token would be open to everybody.
    """
    if settings.worker_token:
        return check_token(settings.worker_token.strip(), "worker_token (MAITRE_WORKER_TOKEN)")
    path = settings.scratch / "workers" / "token"
    # Of two processes that make it the first one makes it; both read what it holds.
    if not path.exists():
        create_text(path, secrets.token_hex(32), private=True)
    with reading(path, TokenError):
        token = path.read_text(encoding="utf-8").strip()
    return check_token(token, f"{path}: delete this file to get a new token, or write one")


def check_token(token: str, source: str) -> str:
    """Return the token; raise `TokenError` naming its source when it is not a safe one."""
    if len(token) < MIN_TOKEN_LENGTH or not _TOKEN.fullmatch(token):
        raise TokenError(
            f"{source}: expected a token of at least {MIN_TOKEN_LENGTH} printable ASCII characters "
            f"without spaces; got {len(token)} characters"
        )
    return token
