"""The MLflow store: runs, figures, artefacts and the model registry.

A SQLite file under the data home by default; a tracking server by URL.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maitre.errors import UserError
from maitre.processes.outages import is_outage
from maitre.tenants import DEFAULT_TENANT, TENANT_TAG, may_use, owner_of_prompts
from maitre.tracking.moved_store import follow_moved_artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

# MLflow is imported inside the functions: the import takes seconds, and code locations load this
# module.

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
METRICS_PER_CALL = 1000
LONGEST_PARAMETER = 500
"""MLflow refuses longer values of parameters."""


class TrackingError(UserError):
    """The MLflow store does not have what was asked for."""


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run.

    `url` opens it in the MLflow UI. `recorded` holds the parameters that the run has already,
    where its process was cut off and it is continued.
    """

    client: "MlflowClient"
    run_id: str
    experiment_id: str
    url: str
    recorded: Mapping[str, str] = field(default_factory=dict)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters, cut to the length that MLflow allows. MLflow never changes them."""
        for name, value in values.items():
            if name not in self.recorded:
                self.client.log_param(self.run_id, name, str(value)[:LONGEST_PARAMETER])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record figures of one step in one call."""
        self.curve({name: [(step, value)] for name, value in values.items()})

    def curve(self, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Record whole curves: the `(step, value)` points of each name."""
        import time

        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now_ms, int(step))
            for name, line in curves.items()
            for step, value in line
        ]
        for start in range(0, len(points), METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=points[start : start + METRICS_PER_CALL])

    def picture(self, figure: Any, name: str) -> None:
        """Store a matplotlib figure with the run."""
        self.client.log_figure(self.run_id, figure, name)

    def tag(self, name: str, value: str) -> None:
        """Tag the run."""
        self.client.set_tag(self.run_id, name, value)


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry."""

    name: str
    version: int
    url: str


@dataclass(frozen=True)
class TrackingStore:
    """One MLflow store. `tracking_uri` is the URL of a database or of a server."""

    tracking_uri: str
    ui_url: str = ""
    experiment: str = "maitre"

    @contextmanager
    def run(
        self,
        tags: Mapping[str, str],
        name: str,
        *,
        leave_open_on: tuple[type[BaseException], ...] = (),
    ) -> Iterator[TrackedRun]:
        """Open the run that `tags` identify, or create it; end it as failed if the body raises.

        A run with the same tags that has not failed is continued: its process was cut off. The
        errors `leave_open_on` mean that another process continues the run or has ended it. After an
        outage the run stays open, too: the caller may try again.
        """
        client = self.client()
        experiment_id = self._experiment_id(client)
        run = _run_with_tags(client, experiment_id, tags)
        if run is None:
            run = client.create_run(experiment_id, tags=dict(tags), run_name=name)
        run_id = run.info.run_id
        url = f"{self.ui_url}/#/experiments/{experiment_id}/runs/{run_id}"
        try:
            yield TrackedRun(client, run_id, experiment_id, url, run.data.params)
        except leave_open_on:
            raise
        except BaseException as error:
            if is_outage(error):
                raise
            # An interrupt is not a failure.
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        client.set_terminated(run_id)

    def client(self) -> "MlflowClient":
        """Return a client of the store; create the folders of a SQLite store.

        A SQLite store whose folder was moved or copied finds its artefacts where they are now. A
        server has 9 s for each of two tries, unless the environment sets other limits.

        Raises:
            TrackingError: MLflow knows no store of this kind of URL.
        """
        from mlflow import MlflowClient, environment_variables

        scheme = self.tracking_uri.partition(":")[0].partition("+")[0]
        if scheme not in _SCHEMES:
            # The URL itself may hold a password.
            raise TrackingError(
                f"mlflow_tracking_uri: expected a URL that begins with {', '.join(_SCHEMES)}; got "
                f"{scheme[:40]!r} (MAITRE_MLFLOW_TRACKING_URI, or maitre.yaml)"
            )
        # MLflow takes these from the environment only. Its own values, 7 tries of 120 s, are
        # minutes of silence while a server does not answer.
        for variable, value in (
            (environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES, 1),
            (environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT, 9),
        ):
            if not variable.is_set():
                variable.set(value)
        folders = self._local_folders()
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if folders:
            database = Path(self.tracking_uri.removeprefix("sqlite:///"))
            follow_moved_artifacts(database, folders[1], self.experiment)
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def outage(self) -> str | None:
        """Return why the store does not answer now, in one line; `None` when it answers."""
        try:
            self._experiment_id(self.client())
        except Exception as error:
            if not is_outage(error):
                raise
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None

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
        code: Path | None = None,
        model_config: Mapping[str, Any] | None = None,
        description: Callable[[int], str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> RegisteredVersion:
        """Log a model with its artefacts and register it as a new version of `name`.

        A version that this run has registered before its process was cut off is returned instead.
        `check` raises when another worker has taken over the run; it is called directly before the
        version is created, and before the version is tagged.

        The model is code: `python_model` is a source file, and nothing is pickled. `code` is a
        package that goes with it; without one, the model runs where this project is installed.
        `requirements` names the packages whose versions matter, `model_config` what its user may
        set. `description` gives the text of the version's page.
        """
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        version = _version_of(run, name)
        if version is None:
            logged = {
                "python_model": str(python_model),
                "artifacts": {key: str(path) for key, path in artifacts.items()},
                "signature": signature,
                # This project itself is not listed: it is not a published package.
                "pip_requirements": [
                    f"{package}=={installed_version(package)}" for package in requirements
                ],
                "code_paths": None if code is None else [str(code)],
                "model_config": None if model_config is None else dict(model_config),
            }
            uri = self._log(run, name, logged)
            # Logging takes seconds. Meanwhile the run may have gone to another worker and back.
            version = _version_of(run, name)
        if version is None:
            _ensure_registered_model(run.client, name)
            check()
            version = int(mlflow.register_model(uri, name).version)
        check()
        for key, value in tags.items():
            run.client.set_model_version_tag(name, str(version), key, value)
        if description is not None:
            run.client.update_model_version(name, str(version), description(version))
        return self._registered_version(name, version)

    def _log(self, run: TrackedRun, name: str, model: Mapping[str, Any]) -> str:
        """Log the model without registering it; return its URI."""
        import mlflow

        with mlflow.start_run(run_id=run.run_id), warnings.catch_warnings():
            # MLflow would predict an example at once; the base model may not be on this machine.
            warnings.filterwarnings("ignore", message=".*input example.*")
            warnings.filterwarnings("ignore", message=".*type hint.*")
            logged = mlflow.pyfunc.log_model(name=name.rsplit(".", 1)[-1], **model)
        return str(logged.model_uri)

    def champion(self, name: str) -> RegisteredVersion | None:
        """Return the version of `name` with the alias `champion`, or None."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client().get_model_version_by_alias(name, "champion")
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return self._registered_version(name, int(found.version))

    def promote(self, version: RegisteredVersion) -> None:
        """Give `version` the alias `champion`."""
        self.client().set_registered_model_alias(version.name, "champion", str(version.version))

    def download(self, version: RegisteredVersion, into: Path) -> Path:
        """Download a version into `into`; return the folder of its artefacts."""
        return self.fetch(f"models:/{version.name}/{version.version}", into)

    def fetch(self, uri: str, into: Path, tenant: str | None = None) -> Path:
        """Download a registered model by its URI for a tenant; return the folder of its artefacts.

        The URI is `models:/NAME/VERSION` or `models:/NAME@ALIAS`. The files are stored in a folder
        of `into` that is named after the URI.

        Raises:
            TrackingError: the registry does not have this version, or has it for another tenant.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        folder = into / uri.removeprefix("models:/").replace("/", "-")
        try:
            owner = self._version_at(uri).tags.get(TENANT_TAG)
            if not may_use(owner_of_prompts(owner), tenant):
                whose = tenant or DEFAULT_TENANT
                raise TrackingError(f"{uri}: the registry does not have it for tenant {whose}")
            folder.mkdir(parents=True, exist_ok=True)
            downloaded = mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
        except MlflowException as error:
            raise TrackingError(f"{uri}: the registry does not have it ({error.message})") from None
        return Path(downloaded) / "artifacts"

    def _version_at(self, uri: str) -> "ModelVersion":
        """Return the version that a URI names: NAME/VERSION, NAME/latest or NAME@ALIAS."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        name, at, alias = uri.removeprefix("models:/").partition("@")
        if at:
            return client.get_model_version_by_alias(name, alias)
        name, _, version = name.partition("/")
        if version == "latest":
            versions = client.search_model_versions(f"name='{name}'")
            if not versions:
                raise MlflowException(f"no version of {name}")
            return max(versions, key=lambda found: int(found.version))
        return client.get_model_version(name, version)

    def _registered_version(self, name: str, version: int) -> RegisteredVersion:
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
        """Return the folders of a SQLite store: that of the database, and that of the artefacts."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return []
        folder = Path(self.tracking_uri.removeprefix("sqlite:///")).parent
        return [folder, folder / "artifacts"]


def _run_with_tags(
    client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]
) -> "Run | None":
    """Return the run with these tags that has not failed, or None.

    A finished run counts too: MLflow marks a run as finished as soon as its model is logged.
    """
    conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items() if "'" not in value]
    conditions.append("attributes.status != 'FAILED'")
    found = client.search_runs([experiment_id], " and ".join(conditions))
    same = (run for run in found if tags.items() <= run.data.tags.items())
    return next(same, None)


def _ensure_registered_model(client: "MlflowClient", name: str) -> None:
    """Create the registered model `name` unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(run: TrackedRun, name: str) -> int | None:
    """Return the version of `name` that the run has registered, or None."""
    found = run.client.search_model_versions(f"run_id='{run.run_id}'")
    return min((int(version.version) for version in found if version.name == name), default=None)
