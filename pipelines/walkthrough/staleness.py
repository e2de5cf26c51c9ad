"""Which assets are out of date: never made, made by older code, or from inputs that changed since.

Dagster tags each materialisation with its code version, its data version and the data versions of
its inputs; this compares those tags with what is there now. `make run` makes only what it names.
"""

import hashlib
from collections.abc import Sequence

import dagster as dg

from assets.serving.vllm_measurements import SERVER_KINDS_NAME
from assets.tuning.tuning_tasks import BANK_TASKS_NAME

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
INPUT_VERSION_TAG = "dagster/input_data_version/"
NEVER_MADE = "INITIAL"
"""What Dagster notes as the version of an input that has not been made."""

# The dynamic partitions of the assets that others read as a whole.
PARTITIONS = {"bank_prompts": BANK_TASKS_NAME, "vllm_measurements": SERVER_KINDS_NAME}
_MOST_PARTITIONS = 100

# An asset's tag that names an input whose change alone is no reason to make it again.
KEPT_TAG = "maitre/kept-when-changed"


def why_stale(
    instance: dg.DagsterInstance,
    assets: dg.AssetsDefinition,
    partition_key: str | None = None,
) -> str | None:
    """One line that says why the asset has to be made again; None when it is up to date."""
    tags = _last_tags(instance, assets.key, partition_key)
    if tags is None:
        return "never made"
    spec = assets.specs_by_key[assets.key]
    if tags.get(CODE_VERSION_TAG) != spec.code_version:
        return "its code changed"
    kept = spec.tags.get(KEPT_TAG)
    for dependency in spec.deps:
        name = dependency.asset_key.to_user_string()
        if name == kept:
            continue
        used = tags.get(INPUT_VERSION_TAG + name)
        if used != (current_version(instance, dependency.asset_key) or NEVER_MADE):
            return f"{name} changed"
    return None


def failed_check(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> str | None:
    """One line that names a blocking check whose newest evaluation failed; None without one.

    What failed its check is recorded as made all the same; it must not count as up to date.
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


def current_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The data version of an asset as it is now.

    Of one with partitions, Dagster's digest of their data versions; where these are as many as
    `_MOST_PARTITIONS`, the newest materialisation's, as Dagster itself does.
    """
    tags = _last_tags(instance, key, None)
    if tags is None:
        return None
    partitions = PARTITIONS.get(key.to_user_string())
    names = instance.get_dynamic_partitions(partitions) if partitions else []
    if not 0 < len(names) < _MOST_PARTITIONS:
        return tags.get(DATA_VERSION_TAG)
    found = instance.event_log_storage.get_latest_tags_by_partition(
        key,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        [DATA_VERSION_TAG],
        asset_partitions=list(names),
    )
    versions = [found[name][DATA_VERSION_TAG] for name in sorted(found)]
    return hashlib.sha256("".join(versions).encode()).hexdigest()


def _last_tags(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str | None
) -> dict[str, str] | None:
    made = last_materialization(instance, key, partition_key)
    return dict(made.tags or {}) if made else None


def last_materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str | None = None
) -> dg.AssetMaterialization | None:
    """The newest materialisation of an asset, or of one of its partitions."""
    partitions = [partition_key] if partition_key else None
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=partitions), limit=1
    )
    return found.records[0].asset_materialization if found.records else None
