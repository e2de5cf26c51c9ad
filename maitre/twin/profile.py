"""Profiles: the fitted constants of one GPU + base model + vLLM version.

A profile is a reviewed YAML file. Every constant stands with its unit in its name; the file also
says what it was fitted on, how well it fits and where it is valid.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maitre.errors import reading
from maitre.twin.errors import TwinInputError, require, shown
from maitre.twin.kernel.state import StepCost
from maitre.twin.limits import buffer_rank
from maitre.twin.server import ServerConfig
from maitre.yaml_mapping import parse_mapping

_GIB = 2.0**30
_ANY = (0.0, math.inf)
_ERRORS_SHOWN = 3
_VERSION_AND_SETTINGS = re.compile(r"vLLM (\d[^\s,]*)(?:, (.+))?")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _in_one_line(error: ValidationError) -> str:
    """Return the first fields that are wrong, each with what was expected and what was found."""
    found = []
    for part in error.errors()[:_ERRORS_SHOWN]:
        field = ".".join(str(key) for key in part["loc"])
        got = "" if part["type"] == "missing" else f"; got {shown(part['input'])[:60]}"
        found.append(f"{field or 'profile'}: {part['msg']}{got}")
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "")


class Engine(_Section):
    """The GPU and the vLLM that the constants hold for, and how Kubernetes starts that vLLM.

    `settings` are those that change the constants, in words. `image` and `model_id` change no
    prediction; where they are empty, `container_image` and the base model's name stand in.
    """

    gpu: str
    vllm_version: str = ""
    settings: str = ""
    image: str = ""
    model_id: str = ""

    @classmethod
    def of_text(cls, gpu: str, text: str) -> "Engine":
        """Return the engine of a measurement or an older file: `vLLM VERSION, SETTINGS`."""
        found = _VERSION_AND_SETTINGS.fullmatch(text)
        if found is None:
            return cls(gpu=gpu, settings=text)
        return cls(gpu=gpu, vllm_version=found[1], settings=found[2] or "")

    @property
    def text(self) -> str:
        """Return version and settings in one line, as `of_text` reads them."""
        version = f"vLLM {self.vllm_version}" if self.vllm_version else ""
        return ", ".join(part for part in (version, self.settings) if part)

    @property
    def container_image(self) -> str:
        """Return the image of vLLM to start, empty where the version is unknown."""
        if self.image or not self.vllm_version:
            return self.image
        return f"vllm/vllm-openai:v{self.vllm_version}"


class Memory(_Section):
    """KV cache tokens that fit beside the weights: base - per_slot S - per_slot_rank S r."""

    base_tokens: float
    per_slot_tokens: float
    per_slot_rank_tokens: float
    max_model_len: int = Field(gt=0)
    block_tokens: int = Field(gt=0)


class Step(_Section):
    """Coefficients of the step time (`kernel/step_time.py`, docs/twin.md), in ms."""

    base_ms: float = Field(ge=0)
    per_token_ms: float = Field(ge=0)
    small_tokens: float = Field(ge=0)
    per_token_over_small_ms: float = Field(ge=0)
    graph_tokens: float = Field(ge=0)
    over_graph_ms: float = Field(ge=0)
    per_token_over_graph_ms: float = Field(ge=0)
    per_sequence_ms: float = Field(ge=0)
    per_kv_token_ms: float = Field(ge=0)
    per_waiting_ms: float = Field(ge=0, default=0.0)
    lora_ms: float = Field(ge=0)
    lora_per_slot_ms: float = Field(ge=0)
    per_adapter_ms: float = Field(ge=0)
    per_adapter_doubling_ms: float = Field(ge=0)
    reference_rank: float = Field(gt=0)
    lora_per_token_slot_ms: float = Field(ge=0)
    lora_per_token_ms: float = Field(ge=0, default=0.0)
    lora_per_prefill_token_ms: float = Field(ge=0)
    lora_over_graph_ms: float = Field(ge=0)
    lora_per_token_over_graph_ms: float = Field(ge=0)


class Loading(_Section):
    """Time to bring an adapter to a GPU slot, by source, linear in its rank (ms).

    `switch_ms` is what a load costs the step beside the copy itself, seen in runs only.
    """

    cpu_to_gpu_ms: float = Field(ge=0)
    cpu_to_gpu_per_rank_ms: float
    disk_to_cpu_ms: float = Field(ge=0)
    disk_to_cpu_per_rank_ms: float
    switch_ms: float = Field(ge=0)


class Api(_Section):
    """What the API server does with a request before and after the engine (kernel/front.py)."""

    ingress_ms: float = Field(ge=0)
    first_use_ms: float = Field(ge=0)
    transit_ms: float = Field(ge=0)
    egress_ms: float = Field(ge=0)
    egress_per_sequence_ms: float = Field(ge=0)
    scrape_interval_s: float = Field(ge=0)
    scrape_ms: float = Field(ge=0)
    scrape_per_series_ms: float = Field(ge=0)
    scrape_per_name_ms: float = Field(ge=0)


class Valid(_Section):
    """The configurations on which the profile was fitted.

    `max_num_seqs` and `max_num_batched_tokens` are None where the profile holds for any value.
    """

    max_loras: tuple[int, int]
    max_lora_rank: tuple[int, int]
    adapters: tuple[int, int]
    offered_rps: tuple[float, float]
    mean_total_tokens: tuple[float, float]
    max_num_seqs: tuple[int, int] | None = None
    max_num_batched_tokens: tuple[int, int] | None = None


class ServerProfile(_Section):
    """Everything the twin knows about one kind of server."""

    name: str
    base_model: str
    engine: Engine
    memory: Memory
    step: Step
    loading: Loading
    api: Api
    valid: Valid
    provenance: dict[str, Any]
    fit: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _read_older_engine(cls, document: Any) -> Any:
        """Read files in which `gpu` and `engine` were two lines of text."""
        if not isinstance(document, Mapping) or not isinstance(document.get("engine"), str):
            return document
        older = dict(document)
        gpu = older.pop("gpu", None)
        if not isinstance(gpu, str):
            raise ValueError("gpu: expected the name of a GPU beside a text `engine`")
        return {**older, "engine": Engine.of_text(gpu, older["engine"])}

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the profiles that ship with Maitre."""
        root = Path(str(resources.files("maitre.twin").joinpath("profiles")))
        return sorted(
            path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.yaml")
        )

    @classmethod
    def shipped(cls) -> list["ServerProfile"]:
        """Return the profiles that ship with Maitre."""
        return [cls.load(name) for name in cls.names()]

    @classmethod
    def load(cls, name_or_path: str | Path) -> "ServerProfile":
        """Return a shipped profile by name, or one from a file.

        Raises:
            TwinInputError: no such profile or file, or the file is not a profile.
        """
        if str(name_or_path) in cls.names():
            root = resources.files("maitre.twin").joinpath("profiles")
            text = root.joinpath(f"{name_or_path}.yaml").read_text()
        else:
            path = Path(name_or_path)
            require(
                path.is_file(),
                f"profile: {str(name_or_path)!r} is neither a file nor one of {cls.names()}",
            )
            with reading(path, TwinInputError):
                text = path.read_text()
        document = parse_mapping(text, f"profile {name_or_path}", TwinInputError)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise TwinInputError(f"profile {name_or_path}: {_in_one_line(error)}") from error

    def to_yaml(self) -> str:
        """Return the text of the file that `load` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)

    def fingerprint(self) -> str:
        """Return a hash of the constants: equal profiles predict equal results."""
        # Without defaults: a term that was added later changes nothing where it is zero.
        parts = self.model_dump(
            mode="json", exclude={"engine", "provenance", "fit"}, exclude_defaults=True
        )
        # As older files had it, so that fingerprints that are stored somewhere stay valid.
        parts |= {"gpu": self.engine.gpu, "engine": self.engine.text}
        return hashlib.sha256(yaml.safe_dump(parts, sort_keys=True).encode()).hexdigest()[:16]

    def kv_cache_tokens(self, max_loras: int, max_lora_rank: int) -> int | None:
        """Return the tokens of KV cache beside `max_loras` slots of `max_lora_rank`: whole blocks.

        None where the server would run out of memory at start.
        """
        tokens = self._kv_room(max_loras, max_lora_rank)
        if tokens < self.memory.max_model_len:
            return None
        return int(tokens // self.memory.block_tokens) * self.memory.block_tokens

    def out_of_memory_reason(self, server: ServerConfig) -> str | None:
        """Return why the server would not start, or None."""
        if server.kv_cache_tokens is not None:
            return None
        room = self._kv_room(server.max_loras, server.max_lora_rank)
        need = server.max_model_len or self.memory.max_model_len
        if room <= 0:
            return "no memory is left for the KV cache beside the weights and adapter slots"
        if room < need:
            return f"the KV cache has room for {room:.0f} tokens, one request may need {need}"
        return None

    def _kv_room(self, max_loras: int, max_lora_rank: int) -> float:
        memory = self.memory
        return (
            memory.base_tokens
            - memory.per_slot_tokens * max_loras
            - memory.per_slot_rank_tokens * max_loras * buffer_rank(max_lora_rank)
        )

    def step_cost(self, server: ServerConfig) -> StepCost:
        """Return the step-time coefficients of one server."""
        step, slots, rank = self.step, server.max_loras, server.buffer_rank
        return StepCost(
            base_ms=step.base_ms,
            per_token_ms=step.per_token_ms,
            small_tokens=step.small_tokens,
            per_token_over_small_ms=step.per_token_over_small_ms,
            graph_tokens=step.graph_tokens,
            over_graph_ms=step.over_graph_ms,
            per_token_over_graph_ms=step.per_token_over_graph_ms,
            per_sequence_ms=step.per_sequence_ms,
            per_kv_token_ms=step.per_kv_token_ms,
            per_waiting_ms=step.per_waiting_ms,
            lora_ms=step.lora_ms + step.lora_per_slot_ms * slots,
            per_adapter_ms=max(
                step.per_adapter_ms
                + step.per_adapter_doubling_ms * math.log2(rank / step.reference_rank),
                0.0,
            ),
            lora_per_token_ms=step.lora_per_token_ms + step.lora_per_token_slot_ms * slots,
            lora_per_prefill_token_ms=step.lora_per_prefill_token_ms,
            lora_over_graph_ms=step.lora_over_graph_ms,
            lora_per_token_over_graph_ms=step.lora_per_token_over_graph_ms,
        )

    def load_ms(self, rank: float) -> tuple[float, float]:
        """Return the milliseconds to load an adapter: CPU to GPU, and disk to CPU."""
        loading = self.loading
        return (
            loading.switch_ms + loading.cpu_to_gpu_ms + loading.cpu_to_gpu_per_rank_ms * rank,
            loading.disk_to_cpu_ms + loading.disk_to_cpu_per_rank_ms * rank,
        )

    def range_warnings(
        self,
        server: ServerConfig,
        adapters: int,
        offered_rps: float,
        mean_total_tokens: float,
        mean_output_tokens: float | None = None,
    ) -> list[str]:
        """Return one line per figure that lies outside the range that the profile was fitted on."""
        valid = self.valid
        found = []
        for field, value, (low, high) in (
            ("max_loras", server.max_loras, valid.max_loras),
            ("max_lora_rank", server.max_lora_rank, valid.max_lora_rank),
            ("adapters", adapters, valid.adapters),
            ("offered_rps", offered_rps, valid.offered_rps),
            ("mean_total_tokens", mean_total_tokens, valid.mean_total_tokens),
            ("max_num_seqs", server.max_num_seqs, valid.max_num_seqs or _ANY),
            (
                "max_num_batched_tokens",
                server.max_num_batched_tokens,
                valid.max_num_batched_tokens or _ANY,
            ),
        ):
            if low <= value <= high:
                continue
            parts = ""
            if field == "mean_total_tokens" and mean_output_tokens is not None:
                inputs = mean_total_tokens - mean_output_tokens
                parts = f" (input {inputs:.1f} + output {mean_output_tokens:.1f})"
            found.append(f"{field} {value:g}{parts} is outside the profile's {low:g}..{high:g}")
        return found
