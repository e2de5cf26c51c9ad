"""Which assets are out of date: never made, made by older code, or from inputs that changed since.

Dagster tags each materialisation with its code version, its data version and the data versions of
its inputs; this compares those tags with what is there now. `make run` makes only what it names.
"""

from collections.abc import Sequence

import dagster as dg

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
INPUT_VERSION_TAG = "dagster/input_data_version/"

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
        if used != current_version(instance, dependency.asset_key):
            return f"{name} changed"
    return None


def current_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The data version of the newest materialisation or observation of an asset."""
    newest = max(
        (
            record
            for event_type in (
                dg.DagsterEventType.ASSET_MATERIALIZATION,
                dg.DagsterEventType.ASSET_OBSERVATION,
            )
            for record in _records(instance, event_type, key, None)
        ),
        key=lambda record: record.storage_id,
        default=None,
    )
    return _tags(newest).get(DATA_VERSION_TAG) if newest else None


def _last_tags(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str | None
) -> dict[str, str] | None:
    found = _records(instance, dg.DagsterEventType.ASSET_MATERIALIZATION, key, partition_key)
    return _tags(found[0]) if found else None


def _records(
    instance: dg.DagsterInstance,
    event_type: dg.DagsterEventType,
    key: dg.AssetKey,
    partition_key: str | None,
) -> Sequence[dg.EventLogRecord]:
    return instance.get_event_records(
        dg.EventRecordsFilter(
            event_type, asset_key=key, asset_partitions=[partition_key] if partition_key else None
        ),
        limit=1,
    )


def _tags(record: dg.EventLogRecord) -> dict[str, str]:
    entry = record.event_log_entry
    made = entry.asset_materialization or entry.asset_observation
    return dict(made.tags or {}) if made else {}
