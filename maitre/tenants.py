"""A tenant: the label of whose a request or a prompt is.

The default tenant's prompts are public. Any other tenant's prompts are private to it, and a
request belongs to the tenant that submitted it. A tenant is a label and not an identity: nobody
is authenticated, and whoever can read the files can read them all. See docs/tenants.md.
"""

import hashlib
import re

from maitre.errors import UserError

DEFAULT_TENANT = "default"
"""Whose request it is where nobody is named; its prompts are public."""

TENANT_TAG = "maitre/tenant"
"""The tag that names the tenant: of a Dagster run, an MLflow run and a registered version."""

MAX_LENGTH = 200
_PLAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DIGEST_LENGTH = 16


def owner_of_prompts(tenant: str | None) -> str | None:
    """Return to whom a prompt of this tenant is private; None where it is public.

    Raises:
        UserError: the name is empty or too long.
    """
    if tenant is None or tenant == DEFAULT_TENANT:
        return None
    if not tenant.strip():
        raise UserError("tenant: must not be empty")
    if len(tenant) > MAX_LENGTH:
        raise UserError(
            f"tenant {tenant[:20]}…: expected at most {MAX_LENGTH} characters; got {len(tenant)}"
        )
    return tenant


def may_use(owner: str | None, tenant: str | None) -> bool:
    """Return whether `tenant` may use what is private to `owner`; None owns what is public."""
    return owner in (None, owner_of_prompts(tenant))


def registered_name(name: str, owner: str | None) -> str:
    """Return the registered model's name of `name` for its owner: no two owners share one.

    No task name holds a `~`. A tenant that MLflow could not take as part of a name gets a digest.
    """
    if owner is None:
        return name
    if _PLAIN.fullmatch(owner):
        return f"{name}~{owner}"
    digest = hashlib.sha256(owner.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{name}~~{digest}"
