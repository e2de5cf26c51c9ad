"""LoRA adapters through peft: the same tasks, targets and stops as soft prompts.

LoRA (Hu et al. 2021) adds to frozen weight matrices a product of two thin ones of a rank. The
adapter is written in peft's own format, which vLLM serves.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import CurvePoint, Progress, StopReason, TuningInputError
from maitre.tuning.encoding import EncodedExample, encode
from maitre.tuning.export import write_folder
from maitre.tuning.rows import IGNORED
from maitre.tuning.task_run import batch_indices
from maitre.tuning.tasks import Task

_ADAPTER = "maitre"
_EVAL_ROWS = 64


@dataclass(frozen=True)
class LoraConfig:
    """How a LoRA adapter is tuned; targets as in `TuneConfig`.

    `target_modules` are names of linear layers; updates are scaled by `alpha / rank`.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float = 1e-3
    batch_size: int = 16
    max_iterations: int = 60
    eval_every: int = 2
    target_loss: float | None = None
    target_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "max_iterations", "eval_every"):
            if getattr(self, name) < 1:
                raise TuningInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < np.inf:
            raise TuningInputError(f"learning_rate must be positive, not {self.learning_rate}")
        if not self.target_modules:
            raise TuningInputError("target_modules must name at least one layer")

    def is_target_met(self, loss: float, accuracy: float) -> bool:
        """Whether an evaluation meets every target that is set; never, when none is."""
        met = []
        if self.target_loss is not None:
            met.append(loss <= self.target_loss)
        if self.target_accuracy is not None:
            met.append(accuracy >= self.target_accuracy)
        return bool(met) and all(met)


@dataclass(frozen=True, eq=False)
class LoraResult:
    """A tuned adapter: `weights` by peft's names, of the best evaluation or the one at the target.

    The other fields are those of `TuneResult`.
    """

    task: str
    weights: dict[str, torch.Tensor]
    config: LoraConfig
    reached: bool
    iterations: int
    eval_loss: float
    eval_accuracy: float
    seconds: float
    curve: tuple[CurvePoint, ...]
    stopped_because: StopReason


def tune_lora(
    model: BaseModel,
    task: Task,
    *,
    config: LoraConfig,
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> LoraResult:
    """Tune a LoRA adapter for one task; the base model is left as it was.

    Raises `TuningInputError` for what cannot be tuned, such as layers that the model lacks.
    """
    started_s = clock()
    encoded = encode(model, task, virtual_tokens=0)
    wrapped = _wrap(model, config, seed)
    try:
        weights = [p for p in wrapped.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(weights, lr=config.learning_rate)
        curve: list[CurvePoint] = []
        best: tuple[CurvePoint, dict[str, torch.Tensor]] | None = None
        stopped: StopReason | None = None
        iteration, train_loss = 0, None
        while True:
            if iteration % config.eval_every == 0 or iteration >= config.max_iterations:
                loss, accuracy = _evaluate(wrapped, model, encoded.eval)
                curve.append((iteration, loss, accuracy))
                if config.is_target_met(loss, accuracy):
                    best, stopped = (curve[-1], _state(wrapped)), "target"
                elif best is None or _rank(task, curve[-1]) > _rank(task, best[0]):
                    best = (curve[-1], _state(wrapped))
                if stopped is None and iteration >= config.max_iterations:
                    stopped = "max_iterations"
            if on_progress is not None:
                at = curve[-1] if curve[-1][0] == iteration else (iteration, None, None)
                elapsed_s = clock() - started_s
                on_progress(Progress(task.name, iteration, train_loss, at[1], at[2], elapsed_s))
            if stopped is None and should_stop is not None and should_stop():
                stopped = "cancelled"
            if stopped is not None:
                break
            picked = batch_indices(seed, iteration, config.batch_size, len(encoded.train))
            losses, _ = _losses(wrapped, model, [encoded.train[index] for index in picked])
            train_loss = float(losses.mean())
            if not np.isfinite(train_loss):
                stopped = "diverged"
                break
            optimiser.zero_grad()
            losses.mean().backward()
            optimiser.step()
            iteration += 1
    finally:
        _unwrap(model, wrapped)
    assert best is not None  # the first pass of the loop evaluates
    return LoraResult(
        task=task.name,
        weights=best[1],
        config=config,
        reached=stopped == "target",
        iterations=iteration,
        eval_loss=best[0][1],
        eval_accuracy=best[0][2],
        seconds=clock() - started_s,
        curve=tuple(curve),
        stopped_because=stopped,
    )


def export_lora(result: LoraResult, folder: Path, *, base_model: str) -> Path:
    """Write the adapter in peft's format (safetensors); whole or not at all.

    `base_model` is the folder or hub id that peft loads the base model from. Raises
    `TuningInputError` when `folder` is there already.
    """
    import safetensors.torch

    def write(into: Path) -> None:
        _peft_config(result.config, base_model).save_pretrained(into)
        safetensors.torch.save_file(
            result.weights, into / "adapter_model.safetensors", {"format": "pt"}
        )
        (into / "maitre.json").write_text(
            json.dumps({"task": result.task, "eval_loss": result.eval_loss}) + "\n"
        )

    return write_folder(folder, write)


def _peft_config(config: LoraConfig, base_model: str | None = None) -> Any:
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        base_model_name_or_path=base_model,
    )


def _wrap(model: BaseModel, config: LoraConfig, seed: int) -> Any:
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the first matrices from the global generator
        try:
            wrapped = get_peft_model(model.model, _peft_config(config), adapter_name=_ADAPTER)
        except ValueError as error:
            names = ", ".join(config.target_modules)
            raise TuningInputError(f"{model.name} has no layers {names} to adapt") from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def _unwrap(model: BaseModel, wrapped: Any) -> None:
    wrapped.unload()
    model.model.requires_grad_(False)
    if hasattr(model.model, "peft_config"):
        del model.model.peft_config


def _state(wrapped: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(wrapped, adapter_name=_ADAPTER)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def _losses(
    wrapped: Any, model: BaseModel, rows: list[EncodedExample]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood of each row's answer, and whether greedy decoding gives it."""
    longest = max(len(row.input_ids) + len(row.answer_ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    wanted = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        cut, end = len(row.input_ids), len(row.input_ids) + len(row.answer_ids)
        ids[place, :end] = torch.tensor(row.input_ids + row.answer_ids)
        wanted[place, cut - 1 : end - 1] = torch.tensor(row.answer_ids)
    ids, wanted = ids.to(model.device), wanted.to(model.device)
    # Right padding: nothing that counts attends to it.
    decoder = wrapped.get_base_model().get_decoder()
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    is_answer = wanted != IGNORED
    logits = model.logits(hidden[is_answer]).float()
    tokens = wanted[is_answer]
    negative_log = hidden.new_zeros(wanted.shape, dtype=torch.float32)
    negative_log[is_answer] = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    exact = torch.ones_like(is_answer)
    exact[is_answer] = logits.argmax(-1) == tokens
    return negative_log.sum(1) / is_answer.sum(1), exact.all(1)


@torch.no_grad()
def _evaluate(
    wrapped: Any, model: BaseModel, rows: tuple[EncodedExample, ...]
) -> tuple[float, float]:
    order = sorted(rows, key=lambda row: len(row.input_ids))
    parts = [
        _losses(wrapped, model, list(order[start : start + _EVAL_ROWS]))
        for start in range(0, len(order), _EVAL_ROWS)
    ]
    losses = torch.cat([losses for losses, _ in parts])
    exact = torch.cat([exact for _, exact in parts])
    return float(losses.mean()), float(exact.float().mean())


def _rank(task: Task, point: CurvePoint) -> tuple[float, float]:
    """Orders evaluations by the task's own metric, ties by the other."""
    _, loss, accuracy = point
    return (accuracy, -loss) if task.metric == "accuracy" else (-loss, accuracy)
