"""What a plan promises, and what speaks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from maitre.placement.document import PlanError, field_of
from maitre.placement.promise import Promise, PromiseError


@dataclass(frozen=True)
class Evidence:
    """What is promised, how it was checked, and what it costs; `None` where that is not known.

    `servers_checked` servers were simulated for `duration_s` under `seed` at `rate_factor` times
    the catalogue's rates, after `rounds_of_repair`. `servers_failed` maps the unhealthy servers of
    a changed plan to the reason; `check_passed` says that no server failed. `servers_over_risk` are
    the servers of a changed plan that the moves did not suffice to relieve, by the capacity model.
    `warnings` say for what the profile was not fitted. `filled_by` names what decided how full
    servers are: the capacity "model" or the "twin".
    """

    promise: Promise | None = None
    profile_fingerprint: str | None = None
    lower_bound_gpus_with_headroom: int | None = None
    servers_checked: int | None = None
    check_passed: bool | None = None
    servers_over_risk: tuple[str, ...] | None = None
    servers_failed: Mapping[str, str] | None = None
    rounds_of_repair: int | None = None
    rate_factor: float | None = None
    duration_s: float | None = None
    seed: int | None = None
    filled_by: str | None = None
    price_per_hour: float | None = None
    gpus_by_profile: Mapping[str, int] | None = None
    warnings: tuple[str, ...] | None = None

    @property
    def unsound(self) -> Mapping[str, str]:
        """The servers that are expected to fail, with the reason: no such plan should be deployed.

        The twin decides where it was asked, else the capacity model.
        """
        if self.servers_failed is not None:
            return self.servers_failed
        return dict.fromkeys(self.servers_over_risk or (), "risk above the promised one")

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as plain JSON values."""
        document: dict[str, Any] = dict(self.promise.to_dict()) if self.promise else {}
        for each in fields(self)[1:]:
            value = getattr(self, each.name)
            if isinstance(value, Mapping):
                value = dict(value)
            elif isinstance(value, tuple):
                value = list(value)
            if value is not None:
                document[each.name] = value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evidence:
        """Read it back; fields that this version does not know are left out.

        Raises:
            PlanError: a value is not of the right kind.
        """
        where = "evidence"
        try:
            promise = Promise.from_dict(document)
        except PromiseError as error:
            raise PlanError(f"{where}: {error}") from error
        over = field_of(document, "servers_over_risk", list, where, None)
        failed = field_of(document, "servers_failed", dict, where, None)
        warnings = field_of(document, "warnings", list, where, None)
        gpus = field_of(document, "gpus_by_profile", dict, where, None)
        return cls(
            promise=promise,
            profile_fingerprint=field_of(document, "profile_fingerprint", str, where, None),
            lower_bound_gpus_with_headroom=field_of(
                document, "lower_bound_gpus_with_headroom", int, where, None
            ),
            servers_checked=field_of(document, "servers_checked", int, where, None),
            check_passed=field_of(document, "check_passed", bool, where, None),
            servers_over_risk=None if over is None else tuple(str(name) for name in over),
            servers_failed=None if failed is None else {k: str(v) for k, v in failed.items()},
            rounds_of_repair=field_of(document, "rounds_of_repair", int, where, None),
            rate_factor=field_of(document, "rate_factor", float, where, None),
            duration_s=field_of(document, "duration_s", float, where, None),
            seed=field_of(document, "seed", int, where, None),
            filled_by=field_of(document, "filled_by", str, where, None),
            price_per_hour=field_of(document, "price_per_hour", float, where, None),
            gpus_by_profile=None
            if gpus is None
            else {k: field_of(gpus, k, int, f"{where}: gpus_by_profile") for k in gpus},
            warnings=None if warnings is None else tuple(str(line) for line in warnings),
        )
