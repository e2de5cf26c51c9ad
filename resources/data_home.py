"""The data home as a Dagster resource: what assets hand on, by name and type.

The file name and the type of each artefact stand here and nowhere else. An artefact that has not
been made raises `NotMadeError`, which names the asset to materialise.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
import numpy as np
import pandas as pd

from maitre.errors import UserError
from maitre.home_files import HomeFiles

if TYPE_CHECKING:
    from maitre.bank.bank import PromptBank
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.plan import PlacementPlan
    from maitre.twin import ServerProfile

# The domain's types are imported inside the methods: each code location loads this module and uses
# half of the types.

T = TypeVar("T")

TASK_TABLE = "tuning_tasks.parquet"
BANK_PROMPTS = "bank_prompts"
CATALOGUE = "adapter_catalogue.parquet"
PLAN = "placement_plan.json"
PLANNED_CATALOGUE = "placement_catalogue.parquet"
DEPLOYED_PLAN = "deployed_plan.json"
MANIFESTS = "plan"
TRACES = "twin_traces.parquet"
TRACE_FILES = "twin_traces"
PROFILE_TABLE = "server_profiles.parquet"
PROFILES = "server_profiles"
MEASUREMENTS = "vllm_measurements"
VERDICT = "twin_verdict.json"
TRAFFIC_RATES = "observed_traffic/rates.parquet"
TRAFFIC_SERVERS = "observed_traffic/servers.parquet"
TRAFFIC_ABOUT = "observed_traffic/about.json"


class NotMadeError(UserError, FileNotFoundError):
    """An asset has not been materialised yet; the message names it."""


@dataclass(frozen=True)
class BankPromptResult:
    """How the tuning of one of the bank's prompts ended.

    `key` identifies what the prompt was made from: the task, the base model and the configuration.
    """

    key: str
    eval_loss: float
    eval_accuracy: float
    iterations: int


class DataHome(dg.ConfigurableResource):
    """Where assets keep what they make; `root` is a path or an fsspec URL."""

    root: str

    def files(self) -> HomeFiles:
        """Return the plain reader and writer of the files under `root`."""
        return HomeFiles(self.root)

    def url(self, name: str) -> str:
        """Return the full path or URL of `name` under the root."""
        return self.files().url(name)

    # The tuning half.

    def task_table(self) -> pd.DataFrame:
        """Return one row per task: group, role, sizes, labels, majority share, fingerprint."""
        return self._read(TASK_TABLE, "tuning_tasks", self.files().read_frame)

    def write_task_table(self, table: pd.DataFrame) -> None:
        """Write the table of tasks."""
        self.files().write_frame(TASK_TABLE, table)

    def bank_prompt(self, task: str) -> np.ndarray:
        """Return the prompt `[virtual_tokens, hidden]` that was tuned for a task of the bank."""
        from safetensors.numpy import load

        name = f"{BANK_PROMPTS}/{task}.safetensors"
        return load(self._read(name, "bank_prompts", self.files().read_bytes))["prompt"]

    def bank_prompt_result(self, task: str) -> BankPromptResult | None:
        """Return how the tuning of the task's prompt ended; None before it was tuned."""
        found = self._read_if_there(f"{BANK_PROMPTS}/{task}.json", self.files().read_json)
        return BankPromptResult(**found) if found is not None else None

    def write_bank_prompt(self, task: str, prompt: np.ndarray, result: BankPromptResult) -> None:
        """Write a prompt, then its result: the prompt counts as tuned when the result is there."""
        from safetensors.numpy import save

        self.files().write_bytes(f"{BANK_PROMPTS}/{task}.safetensors", save({"prompt": prompt}))
        self.files().write_json(f"{BANK_PROMPTS}/{task}.json", asdict(result))

    def bank_url(self, model_hash: str, tokenizer_hash: str) -> str:
        """Return where the prompt bank of a base model and its tokenizer is kept."""
        return self.files().bank_url(model_hash, tokenizer_hash)

    def bank(self, model_hash: str, tokenizer_hash: str) -> "PromptBank":
        """Return the prompt bank of a base model; an empty bank before the first prompt."""
        from maitre.bank.bank import PromptBank

        return PromptBank.load(self.bank_url(model_hash, tokenizer_hash), missing_ok=True)

    # Adapters and plans.

    def catalogue(self) -> "AdapterCatalogue":
        """Return the adapter catalogue; `adapter_catalogue` has validated it."""
        return self._catalogue(CATALOGUE, "adapter_catalogue")

    def has_catalogue(self) -> bool:
        """Return whether `adapter_catalogue` has been materialised."""
        return self.files().exists(CATALOGUE)

    def write_catalogue(self, catalogue: "AdapterCatalogue") -> None:
        """Write a validated catalogue."""
        self.files().write_frame(CATALOGUE, catalogue.frame())

    def planned_catalogue(self) -> "AdapterCatalogue":
        """Return the catalogue at the rates that the plan was made for."""
        return self._catalogue(PLANNED_CATALOGUE, "placement_plan")

    def write_planned_catalogue(self, catalogue: "AdapterCatalogue") -> None:
        """Write the catalogue at the rates that the plan was made for."""
        self.files().write_frame(PLANNED_CATALOGUE, catalogue.frame())

    def plan(self) -> "PlacementPlan":
        """Return the newest placement plan."""
        return self._read(PLAN, "placement_plan", self._plan_of)

    def has_plan(self) -> bool:
        """Return whether `placement_plan` has been materialised."""
        return self.files().exists(PLAN)

    def write_plan(self, plan: "PlacementPlan") -> None:
        """Write the placement plan."""
        self.files().write_bytes(PLAN, plan.to_json().encode())

    def deployed_plan(self) -> "PlacementPlan | None":
        """Return the plan that was last applied to a cluster; None before that."""
        return self._read_if_there(DEPLOYED_PLAN, self._plan_of)

    def write_deployed_plan(self, plan: "PlacementPlan") -> None:
        """Write the plan that was applied to a cluster."""
        self.files().write_bytes(DEPLOYED_PLAN, plan.to_json().encode())

    def manifests(self) -> dict[str, str]:
        """Return the rendered Kubernetes manifests by file name; empty before they are rendered."""
        files = self.files()
        return {
            name: files.read_bytes(f"{MANIFESTS}/{name}").decode()
            for name in files.list_folder(MANIFESTS)
        }

    def write_manifests(self, manifests: Mapping[str, str]) -> str:
        """Write the manifests, remove those of an earlier plan, and return the folder's URL."""
        return self.files().write_folder(MANIFESTS, manifests)

    # Servers and their simulation.

    def traces(self) -> pd.DataFrame:
        """Return the twin's traces: one row per configuration."""
        return self._read(TRACES, "twin_traces", self.files().read_frame)

    def write_traces(self, traces: pd.DataFrame) -> None:
        """Write the twin's traces."""
        self.files().write_frame(TRACES, traces)

    def trace_file(self, name: str) -> pd.DataFrame | None:
        """Return the traces stored as `name`, which identifies their content; None before that."""
        return self._read_if_there(f"{TRACE_FILES}/{name}", self.files().read_frame)

    def write_trace_file(self, name: str, traces: pd.DataFrame) -> None:
        """Write traces as `name`, which identifies their content."""
        self.files().write_frame(f"{TRACE_FILES}/{name}", traces)

    def write_profile_table(self, table: pd.DataFrame) -> None:
        """Write one row per known server profile."""
        self.files().write_frame(PROFILE_TABLE, table)

    def fitted_profile(self, kind: str) -> "ServerProfile | None":
        """Return the profile that was fitted to measurements of this kind of server, or None."""
        import yaml

        from maitre.twin import ServerProfile

        def read(name: str) -> ServerProfile:
            return ServerProfile.model_validate(yaml.safe_load(self.files().read_bytes(name)))

        return self._read_if_there(f"{PROFILES}/{kind}.yaml", read)

    def has_fitted_profile(self, kind: str) -> bool:
        """Return whether a profile was fitted to measurements of this kind of server."""
        return self.files().exists(f"{PROFILES}/{kind}.yaml")

    def write_fitted_profile(self, kind: str, profile: "ServerProfile") -> None:
        """Write the profile that was fitted to measurements of this kind of server."""
        self.files().write_bytes(f"{PROFILES}/{kind}.yaml", profile.to_yaml().encode())

    def measured_kinds(self) -> list[str]:
        """Return the kinds of server that were measured, sorted."""
        names = self.files().list_folder(MEASUREMENTS)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def samples(self, kind: str) -> pd.DataFrame:
        """Return the newest measured requests of a kind of server."""
        name = f"{MEASUREMENTS}/{kind}.parquet"
        return self._read(name, "vllm_measurements", self.files().read_frame)

    def has_measurement(self, kind: str) -> bool:
        """Return whether a server of this kind was measured."""
        return self.files().exists(f"{MEASUREMENTS}/{kind}.json")

    def measured_server(self, kind: str) -> dict[str, Any]:
        """Return what is known of the measured server of this kind."""
        name = f"{MEASUREMENTS}/{kind}.json"
        return self._read(name, "vllm_measurements", self.files().read_json)

    def write_measurement(self, kind: str, samples: pd.DataFrame, server: dict[str, Any]) -> None:
        """Write the samples of a kind of server, then what is known of the server."""
        self.files().write_frame(f"{MEASUREMENTS}/{kind}.parquet", samples)
        self.files().write_json(f"{MEASUREMENTS}/{kind}.json", server)

    def twin_verdict(self) -> dict[str, Any] | None:
        """Return whether measurements contradict the chosen profile; None before the first look."""
        return self._read_if_there(VERDICT, self.files().read_json)

    def write_twin_verdict(self, verdict: Mapping[str, Any]) -> None:
        """Write whether measurements contradict the chosen profile."""
        self.files().write_json(VERDICT, verdict)

    def observed_traffic(self) -> dict[str, Any] | None:
        """Return the newest observed traffic (`at_s`, `span_s`, `requests`); None before that."""
        return self._read_if_there(TRAFFIC_ABOUT, self.files().read_json)

    def write_observed_traffic(
        self, rates: pd.DataFrame, servers: pd.DataFrame, about: Mapping[str, Any]
    ) -> None:
        """Write rates by adapter and the state of each server, then what they are taken from."""
        self.files().write_frame(TRAFFIC_RATES, rates)
        self.files().write_frame(TRAFFIC_SERVERS, servers)
        self.files().write_json(TRAFFIC_ABOUT, about)

    def _plan_of(self, name: str) -> "PlacementPlan":
        from maitre.placement.plan import PlacementPlan

        return PlacementPlan.from_json(self.files().read_bytes(name).decode())

    def _catalogue(self, name: str, asset: str) -> "AdapterCatalogue":
        from maitre.placement.catalogue import AdapterCatalogue

        # Only `AdapterCatalogue.frame()` writes these files, so nothing is validated again.
        frame = self._read(name, asset, self.files().read_frame)
        return AdapterCatalogue(
            names=frame["adapter"].to_numpy(dtype=object),
            base_models=frame["base_model"].to_numpy(dtype=object),
            ranks=frame["rank"].to_numpy(dtype=np.int64),
            rates_rps=frame["rate_rps"].to_numpy(dtype=np.float64),
            mean_input_tokens=frame["mean_input_tokens"].to_numpy(dtype=np.float64),
            mean_output_tokens=frame["mean_output_tokens"].to_numpy(dtype=np.float64),
        )

    def _read(self, name: str, asset: str, read: Callable[[str], T]) -> T:
        try:
            return read(name)
        except FileNotFoundError:
            raise NotMadeError(
                f"{self.url(name)}: no such file; materialise the asset {asset} first"
            ) from None

    def _read_if_there(self, name: str, read: Callable[[str], T]) -> T | None:
        return read(name) if self.files().exists(name) else None
