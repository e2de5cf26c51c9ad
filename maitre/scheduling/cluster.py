"""A cluster: how many GPUs, what they cost, and how each base model behaves on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maitre.errors import reading
from maitre.scheduling.errors import SchedulingError
from maitre.yaml_mapping import parse_mapping


@dataclass(frozen=True)
class ModelSpec:
    """How one base model behaves: seconds to warm up, look up, resize, and run an iteration.

    `iteration_s` maps a number of workers to seconds per iteration; it need not fall with more.
    """

    name: str
    warm_up_s: float
    lookup_s: float
    resize_s: float
    iteration_s: Mapping[int, float]

    @cached_property
    def worker_counts(self) -> tuple[int, ...]:
        """The allowed numbers of workers of a job, rising."""
        return tuple(sorted(self.iteration_s))

    @cached_property
    def counts_by_cost(self) -> tuple[int, ...]:
        """The allowed numbers of workers, cheapest in GPU-seconds per iteration first."""
        return tuple(sorted(self.iteration_s, key=lambda k: (k * self.iteration_s[k], k)))

    @cached_property
    def least_gpu_s_per_iteration(self) -> float:
        """GPU-seconds of one iteration at the cheapest number of workers."""
        return min(k * seconds for k, seconds in self.iteration_s.items())


@dataclass(frozen=True)
class Cluster:
    """A GPU cluster. `failures_per_worker_hour` is the rate at which held workers die."""

    gpus: int
    gpu_price_per_hour: float
    models: Mapping[str, ModelSpec]
    failures_per_worker_hour: float = 0.0


class _ModelFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    warm_up_s: float = Field(ge=0, allow_inf_nan=False)
    lookup_s: float = Field(ge=0, allow_inf_nan=False)
    resize_s: float = Field(ge=0, allow_inf_nan=False)
    iteration_s: dict[int, float] = Field(min_length=1)


class _ClusterFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    gpus: int = Field(ge=1)
    gpu_price_per_hour: float = Field(ge=0, allow_inf_nan=False)
    models: dict[str, _ModelFields] = Field(min_length=1)
    failures_per_worker_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)


_OWN_KEYS = frozenset(
    ("gpus", "gpu_price_per_hour", "failures_per_worker_hour", "models", "base_models")
)


def read_cluster(path: Path) -> Cluster:
    """Read `cluster.yaml`.

    Base models stand under `models:` (or `base_models:`), or directly at the top level beside
    `gpus` and `gpu_price_per_hour`. Raises `SchedulingError` that names the field.
    """
    with reading(path, SchedulingError):
        text = path.read_text(encoding="utf-8")
    return cluster_from_mapping(parse_mapping(text, str(path), SchedulingError), str(path))


def cluster_from_mapping(document: Mapping[str, object], where: str) -> Cluster:
    """Check a parsed `cluster.yaml`; `where` names it in errors (`SchedulingError`)."""
    fields = {key: document[key] for key in document if key in _OWN_KEYS}
    at_top = {key: value for key, value in document.items() if key not in _OWN_KEYS}
    under = [fields.pop(key) for key in ("models", "base_models") if key in fields]
    if len(under) + bool(at_top) > 1:
        extra = ", ".join(map(str, at_top)) or "base_models"
        raise SchedulingError(
            f"{where}: {extra}: not a setting of a cluster (base models stand under `models`)"
        )
    models = under[0] if under else at_top
    if isinstance(models, list):
        models = _by_name(models, where)
    try:
        checked = _ClusterFields.model_validate({**fields, "models": models})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SchedulingError(f"{where}: {field}: {first['msg']}") from None
    return Cluster(
        gpus=checked.gpus,
        gpu_price_per_hour=checked.gpu_price_per_hour,
        models=MappingProxyType(
            {name: _spec(name, model, where) for name, model in checked.models.items()}
        ),
        failures_per_worker_hour=checked.failures_per_worker_hour,
    )


def _by_name(models: list[object], where: str) -> dict[str, object]:
    """Return a list of models, each with its `name` (or `base_model`), as a mapping."""
    named: dict[str, object] = {}
    for model in models:
        if not isinstance(model, dict) or not ({"name", "base_model"} & model.keys()):
            raise SchedulingError(f"{where}: models: each entry of the list needs a name")
        rest = dict(model)
        name = str(rest.pop("name", None) or rest.pop("base_model", None))
        if name in named:
            raise SchedulingError(f"{where}: models.{name}: named twice")
        named[name] = rest
    return named


def _spec(name: str, fields: _ModelFields, where: str) -> ModelSpec:
    for workers, seconds in fields.iteration_s.items():
        if workers < 1 or not 0 < seconds < float("inf"):
            raise SchedulingError(
                f"{where}: models.{name}.iteration_s: {workers}: {seconds}: "
                "expected a positive number of workers and positive seconds"
            )
    return ModelSpec(
        name=name,
        warm_up_s=fields.warm_up_s,
        lookup_s=fields.lookup_s,
        resize_s=fields.resize_s,
        iteration_s=MappingProxyType(dict(sorted(fields.iteration_s.items()))),
    )
