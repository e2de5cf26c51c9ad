"""MLflow tracking as a Dagster resource: one MLflow run for each asset that trains or measures.

The MLflow run carries the Dagster run id and asset key as tags, and the asset's metadata links to
the MLflow run. So each interface leads to the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from maitre.tenants import TENANT_TAG
from maitre.tracking.store import TrackedRun, TrackingStore
from maitre.workers.launch.run_tags import REQUEST_TAG
from maitre.workers.leases import LeaseLost


class MlflowTracking(dg.ConfigurableResource):
    """One MLflow store. `tracking_uri` is the URL of a database or of a server."""

    tracking_uri: str
    ui_url: str
    experiment: str = "maitre"

    def store(self) -> TrackingStore:
        """Return the store itself, with the model registry."""
        return TrackingStore(self.tracking_uri, self.ui_url, self.experiment)

    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, name: str | None = None
    ) -> Iterator[TrackedRun]:
        """Open an MLflow run for the asset that is being materialised.

        A Dagster run that was cut off and is resumed continues its MLflow run.
        """
        asset = context.asset_key.to_user_string()
        tags = {"dagster/run_id": context.run.run_id, "dagster/asset": asset}
        if context.has_partition_key:
            tags["dagster/partition"] = context.partition_key
        for tag in (TENANT_TAG, REQUEST_TAG):
            if tag in context.run.tags:
                tags[tag] = context.run.tags[tag]
        # A lost lease means that another worker continues the MLflow run, or has ended it.
        with self.store().run(tags, name or asset, leave_open_on=(LeaseLost,)) as run:
            yield run


def run_links(run: TrackedRun) -> dict[str, dg.MetadataValue]:
    """Return the metadata with which the Dagster UI links to an MLflow run."""
    return {
        "mlflow_run": dg.MetadataValue.url(run.url),
        "mlflow_run_id": dg.MetadataValue.text(run.run_id),
    }
