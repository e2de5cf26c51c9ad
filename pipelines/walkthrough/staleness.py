"""Which assets `make run` has to make again, by the versions that Dagster records.

Dagster tags each materialisation with its code version, its data version and the data versions of
its inputs. An asset is stale when it was never made, or when those tags differ from what is there
now. docs/decisions/0002-staleness.md says why Dagster's own resolver is not asked.
"""

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from maitre import fingerprints

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
INPUT_VERSION_TAG = "dagster/input_data_version/"
NEVER_MADE = "INITIAL"
"""What Dagster records as the version of an input that has not been made."""
MOST_PARTITIONS = 100
"""From so many partitions on, Dagster compares the newest materialisation alone."""

KEPT_TAG = "maitre/kept-when-changed"
"""Names an input whose change alone does not make the asset stale."""


def why_stale(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,
    key: dg.AssetKey,
    partition_key: str | None = None,
) -> str | None:
    """Return in one line why the asset has to be made again; None when it is up to date."""
    tags = _last_tags(instance, key, partition_key)
    if tags is None:
        return "never made"
    asset = graph.get(key)
    if tags.get(CODE_VERSION_TAG) != asset.code_version:
        return "its code changed"
    kept = asset.tags.get(KEPT_TAG)
    for dependency in sorted(asset.parent_keys):
        name = dependency.to_user_string()
        used = tags.get(INPUT_VERSION_TAG + name)
        if name != kept and used != (current_version(instance, graph, dependency) or NEVER_MADE):
            return f"{name} changed"
    return None


def failed_check(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey]) -> str | None:
    """Return in one line which blocking check failed at its newest evaluation; else None.

    Dagster records an asset as made even if its blocking check fails.
    """
    for key in checks:
        record = instance.get_latest_asset_check_evaluation_record(key)
        evaluation = record.event.asset_check_evaluation if record and record.event else None
        if (
            evaluation
            and not evaluation.passed
            and evaluation.severity is dg.AssetCheckSeverity.ERROR
        ):
            return f"its check {key.name} failed"
    return None


def current_version(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey
) -> str | None:
    """Return the data version of an asset as it is now; None if it was never made.

    For an asset with dynamic partitions it is Dagster's digest of their data versions.
    """
    tags = _last_tags(instance, key, None)
    if tags is None:
        return None
    partitions = graph.get(key).partitions_def
    dynamic = partitions.name if isinstance(partitions, dg.DynamicPartitionsDefinition) else None
    names = instance.get_dynamic_partitions(dynamic) if dynamic else []
    if not 0 < len(names) < MOST_PARTITIONS:
        return tags.get(DATA_VERSION_TAG)
    found = instance.event_log_storage.get_latest_tags_by_partition(
        key,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        [DATA_VERSION_TAG],
        asset_partitions=list(names),
    )
    versions = [found[name][DATA_VERSION_TAG] for name in sorted(found)]
    return fingerprints.of_text("".join(versions))


def _last_tags(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str | None
) -> dict[str, str] | None:
    made = last_materialization(instance, key, partition_key)
    return dict(made.tags or {}) if made else None


def last_materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str | None = None
) -> dg.AssetMaterialization | None:
    """Return the newest materialisation of an asset, or of one of its partitions."""
    partitions = [partition_key] if partition_key else None
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=partitions), limit=1
    )
    return found.records[0].asset_materialization if found.records else None
