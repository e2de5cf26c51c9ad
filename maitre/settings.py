"""The user's settings: which model, which tasks, which adapters, and where things are kept.

They come from `maitre.yaml` in the working directory (or the file that `MAITRE_SETTINGS` names);
an environment variable `MAITRE_<FIELD>` wins over the file. Every field has a default, so that a
fresh clone runs without either.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maitre.errors import UserError, reading
from maitre.yaml_mapping import parse_mapping


class SettingsError(UserError):
    """The settings file or an environment variable cannot be used; the message names the field."""


class Settings(BaseModel):
    """Where Maitre finds its inputs and keeps its outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: str = Field(".maitre", description="Folder (or fsspec URL) of everything Maitre makes.")
    base_model: str = Field(
        ".maitre/models/smollm2-135m-instruct",
        description="Folder in Hugging Face's layout, or a hub id: org/name or org/name@revision.",
    )
    tasks: str = Field(".maitre/tasks", description="Folder with one folder per task.")
    held_back: tuple[str, ...] = Field(
        (), description="Tasks that stay out of the bank and are tuned on request."
    )
    adapters: str = Field("examples/adapters.csv", description="The adapter catalogue.")
    profile: str = Field(
        "h100-64gb/llama-3.1-8b-instruct", description="Server profile: a shipped name or a path."
    )
    request_queue_url: str = Field(
        "sqlite:///.maitre/requests.db", description="SQLAlchemy URL of the tuning-request queue."
    )
    mlflow_tracking_uri: str = Field(
        "sqlite:///.maitre/mlflow/mlflow.db", description="MLflow store: a database or a server."
    )
    mlflow_ui_url: str = Field(
        "http://127.0.0.1:5000", description="Where people open the MLflow UI; links point there."
    )
    warm_pool: Literal["off", "local", "kubernetes"] = Field(
        "off", description="Where tuning runs find warm workers; `maitre up` says local."
    )
    min_warm_workers: int = Field(2, ge=0, description="Warm workers that are kept, however idle.")
    cluster: str = Field(
        "examples/workers.yaml",
        description="GPUs, prices and speeds to plan warm workers with.",
    )

    gateway_metrics_url: str = Field(
        "http://127.0.0.1:8000/metrics",
        description="Where requests by model are counted: the proxy's, or a gateway's metrics.",
    )

    dagster_url: str = Field(
        "", description="Dagster's webserver; empty: the one that `maitre up` has started."
    )

    worker_token: str = Field(
        "",
        repr=False,
        description="Token between launcher and workers; empty: one that is made in the home.",
    )
    vllm_venv: str = Field(
        ".venv-vllm", description="Environment of vLLM on this machine; `make vllm` makes it."
    )

    @property
    def scratch(self) -> Path:
        """A folder on this machine: the home, or, where that is a URL, a temporary one."""
        return Path(tempfile.gettempdir(), "maitre") if "://" in self.home else Path(self.home)

    @property
    def base_model_name(self) -> str:
        """Return the base model's name: the name of its pool of warm workers."""
        name = Path(self.base_model).name
        # A revision of the hub is no part of a name.
        return name if Path(self.base_model).is_absolute() else name.partition("@")[0]

    def environment(self) -> dict[str, str]:
        """Return the variables from which a child process reads these same settings."""
        values = {**self.model_dump(), "held_back": ",".join(self.held_back)}
        return {f"MAITRE_{field.upper()}": str(value) for field, value in values.items()}

    @classmethod
    def read(cls, path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings file, then let the environment override it.

        Raises `SettingsError` when a named file is missing or is not a YAML mapping, or a field is
        unknown or of the wrong type.
        """
        named = path or (Path(p) if (p := environment.get("MAITRE_SETTINGS")) else None)
        if named and not named.is_file():
            raise SettingsError(f"{named}: no such settings file")
        values = _read_mapping(named or Path("maitre.yaml"))
        for field in cls.model_fields:
            if (value := environment.get(f"MAITRE_{field.upper()}")) is not None:
                values[field] = _names(value) if field == "held_back" else value
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise SettingsError(f"{named or 'maitre.yaml'}: {field}: {first['msg']}") from None


def _names(text: str) -> list[str]:
    return text.split(",") if text else []


def _read_mapping(path: Path) -> dict:
    if not path.is_file():
        return {}
    with reading(path):
        text = path.read_text(encoding="utf-8")
    return parse_mapping(text, str(path), SettingsError)
