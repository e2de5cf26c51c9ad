"""MLflow tracking: runs, figures, artefacts and the model registry, tied to Dagster's lineage.

Each asset that trains or measures opens one MLflow run through `MlflowTracking.run`. The run
carries the Dagster run id and asset as tags; the asset's metadata carries the link to the MLflow
run. So either interface leads to the other. SQLite under the data home by default, a server by URL.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from maitre.workers.leases import PlacementLost

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow is imported inside the methods: it takes seconds, and code locations load this module.


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run: where its figures go and where people find it.

    `recorded` are the settings that it has already, where it was cut off and goes on.
    """

    client: "MlflowClient"
    run_id: str
    experiment_id: str
    url: str
    recorded: Mapping[str, str] = field(default_factory=dict)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings; what is longer than MLflow takes is cut. They cannot be changed."""
        for name, value in values.items():
            if name not in self.recorded:
                self.client.log_param(self.run_id, name, str(value)[:500])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record figures at one step, in one call."""
        self.curve({name: [(step, value)] for name, value in values.items()})

    def curve(self, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Record whole curves: for each name its `(step, value)` points, 1,000 points a call."""
        import time

        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now_ms, int(step))
            for name, line in curves.items()
            for step, value in line
        ]
        for start in range(0, len(points), 1000):
            self.client.log_batch(self.run_id, metrics=points[start : start + 1000])

    def picture(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure with the run."""
        self.client.log_figure(self.run_id, figure, name)

    def tag(self, name: str, value: str) -> None:
        """Tag the run."""
        self.client.set_tag(self.run_id, name, value)

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """What an asset adds to its materialisation so that the UI links here."""
        return {
            "mlflow_run": dg.MetadataValue.url(self.url),
            "mlflow_run_id": dg.MetadataValue.text(self.run_id),
        }


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry."""

    name: str
    version: int
    url: str


class MlflowTracking(dg.ConfigurableResource):
    """One MLflow store: `tracking_uri` may be a database URL or a server's."""

    tracking_uri: str
    ui_url: str
    experiment: str = "maitre"

    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, name: str | None = None
    ) -> Iterator[TrackedRun]:
        """Open a run for the asset being materialised; it ends as failed when the body raises.

        A Dagster run that was cut off and is resumed goes on with the MLflow run that it had.
        """
        client = self.client()
        experiment_id = self._experiment_id(client)
        asset = context.asset_key.to_user_string()
        tags = {"dagster/run_id": context.run.run_id, "dagster/asset": asset}
        if context.has_partition_key:
            tags["dagster/partition"] = context.partition_key
        run = _cut_off(client, experiment_id, tags)
        if run is None:
            run = client.create_run(experiment_id, tags=tags, run_name=name or asset)
        run_id = run.info.run_id
        url = f"{self.ui_url}/#/experiments/{experiment_id}/runs/{run_id}"
        try:
            yield TrackedRun(client, run_id, experiment_id, url, run.data.params)
        except PlacementLost:
            # Another worker goes on with it, or has ended it by now.
            raise
        except BaseException as error:
            # Interrupts are no failures.
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        client.set_terminated(run_id)

    def client(self) -> "MlflowClient":
        """A client of the store, which is created when it is a database that is not there yet."""
        from mlflow import MlflowClient

        for folder in self._local_folders():
            folder.mkdir(parents=True, exist_ok=True)
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def register(
        self,
        run: TrackedRun,
        *,
        name: str,
        python_model: Path,
        artifacts: Mapping[str, Path],
        signature: Any,
        tags: Mapping[str, str],
        requirements: Sequence[str],
        check: Callable[[], None] = lambda: None,
    ) -> RegisteredVersion:
        """Log a model with its artefacts and register it as a new version of `name`.

        What the run has registered already, before it was cut off, is not registered again: a
        version says which run it is of, and is written when its files are there. `check` raises
        when the run is another worker's by now; it is asked directly before the version is made.

        The model is code: `python_model` is a source file, and nothing is pickled. It runs where
        this project is installed; `requirements` names the packages whose versions matter.
        """
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        version = _version_of(run, name)
        if version is None:
            uri = self._log(run, name, python_model, artifacts, signature, requirements)
            # Logging takes seconds, in which the run may have gone to another worker and back.
            version = _version_of(run, name)
        if version is None:
            _make_name(run.client, name)
            check()
            version = int(mlflow.register_model(uri, name).version)
        check()
        for key, value in tags.items():
            run.client.set_model_version_tag(name, str(version), key, value)
        return self._registered(name, version)

    def _log(
        self,
        run: TrackedRun,
        name: str,
        python_model: Path,
        artifacts: Mapping[str, Path],
        signature: Any,
        requirements: Sequence[str],
    ) -> str:
        """Log the model, as no version of anything yet; its URI."""
        import mlflow

        with mlflow.start_run(run_id=run.run_id), warnings.catch_warnings():
            # An example would be predicted at once, on a base model that need not be here.
            warnings.filterwarnings("ignore", message=".*input example.*")
            warnings.filterwarnings("ignore", message=".*type hints.*")
            logged = mlflow.pyfunc.log_model(
                name=name.rsplit(".", 1)[-1],
                python_model=str(python_model),
                artifacts={key: str(path) for key, path in artifacts.items()},
                signature=signature,
                # Besides this project, which is no published package.
                pip_requirements=[f"{name}=={installed(name)}" for name in requirements],
            )
        return str(logged.model_uri)

    def champion(self, name: str) -> RegisteredVersion | None:
        """The version of `name` with the alias `champion`, if there is one."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client().get_model_version_by_alias(name, "champion")
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return self._registered(name, int(found.version))

    def promote(self, version: RegisteredVersion) -> None:
        """Give `version` the alias `champion`."""
        self.client().set_registered_model_alias(version.name, "champion", str(version.version))

    def download(self, version: RegisteredVersion, into: Path) -> Path:
        """Fetch a version's files into `into`; the folder that holds its artefacts."""
        return self.fetch(f"models:/{version.name}/{version.version}", into)

    def fetch(self, uri: str, into: Path) -> Path:
        """The same of a registered model by its URI: `models:/NAME/VERSION`, `models:/NAME@ALIAS`.

        Its files are in a folder of `into` named after the URI.

        Raises:
            MlflowException: there is no such version.
        """
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        folder = into / uri.removeprefix("models:/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))) / "artifacts"

    def _registered(self, name: str, version: int) -> RegisteredVersion:
        url = f"{self.ui_url}/#/models/{name}/versions/{version}"
        return RegisteredVersion(name, version, url)

    def _experiment_id(self, client: "MlflowClient") -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        folders = self._local_folders()
        location = (folders[1]).resolve().as_uri() if folders else None
        return client.create_experiment(self.experiment, artifact_location=location)

    def _local_folders(self) -> list[Path]:
        """For a SQLite store: the folder of the database and, beside it, that of the artefacts."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return []
        folder = Path(self.tracking_uri.removeprefix("sqlite:///")).parent
        return [folder, folder / "artifacts"]


def _cut_off(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> "Run | None":
    """The run with these tags that has not failed, if there is one.

    One that has ended well counts, too: a run is marked so as soon as its model is logged.
    """
    of_run = f"tags.`dagster/run_id` = '{tags['dagster/run_id']}'"
    found = client.search_runs([experiment_id], f"{of_run} and attributes.status != 'FAILED'")
    same = (run for run in found if tags.items() <= run.data.tags.items())
    return next(same, None)


def _make_name(client: "MlflowClient", name: str) -> None:
    """Make the registered model that versions are of, unless it is there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(run: TrackedRun, name: str) -> int | None:
    """The version of `name` that the run has registered."""
    found = run.client.search_model_versions(f"run_id='{run.run_id}'")
    return min((int(version.version) for version in found if version.name == name), default=None)
