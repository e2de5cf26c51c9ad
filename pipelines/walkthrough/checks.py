"""The newest results of the asset checks, as the summary of `make run` prints them."""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph


@dataclass(frozen=True)
class CheckResult:
    """The newest evaluation of an asset check."""

    key: dg.AssetCheckKey
    passed: bool
    blocking: bool = False
    reason: str = ""

    def line(self) -> str:
        """Return one line: what failed, why, and what to do."""
        asset = self.key.asset_key.to_user_string()
        reason = " ".join(self.reason.split()) or f"open {asset} in make ui for its figures"
        return f"check {self.key.name} of {asset}: {reason}"


def newest_results(
    instance: dg.DagsterInstance, graphs: Iterable[BaseAssetGraph]
) -> list[CheckResult]:
    """Return the newest result of every check of the graphs, in the order of their names."""
    keys = sorted({key for graph in graphs for key in graph.asset_check_keys})
    return [_newest_result(instance, key) for key in keys]


def _newest_result(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> CheckResult:
    record = instance.get_latest_asset_check_evaluation_record(key)
    evaluation = record.event.asset_check_evaluation if record and record.event else None
    asset = key.asset_key.to_user_string()
    if evaluation is None:
        reason = f"no result yet; materialise {asset} in make ui"
        return CheckResult(key, passed=False, reason=reason)
    return CheckResult(
        key,
        passed=evaluation.passed,
        blocking=evaluation.severity is dg.AssetCheckSeverity.ERROR,
        reason=evaluation.description or "",
    )
