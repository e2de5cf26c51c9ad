"""The start that a user asks for: the bank's choice, a text, the cold start or a named entry."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import build_index
from maitre.tuning.bank_entries import FEATURE, with_output_features
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position, TuneConfig, TuningInputError
from maitre.tuning.soft_prompt import random_init, text_init
from maitre.tuning.start import find_start
from maitre.tuning.tasks import Task

Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class ChosenStart:
    """A prompt to start from, float32 `[virtual_tokens, hidden]`.

    `entry` is the bank's id of it, or of the entry that a mixture owes the most to; `None` where it
    is not of the bank. `lookup_seconds` counts everything from the opened bank to the choice.
    """

    prompt: np.ndarray
    name: str
    entry: str | None
    why: str
    lookup_seconds: float = 0.0


def choose_start(
    model: BaseModel,
    task: Task,
    init: str,
    bank: PromptBank,
    *,
    config: TuneConfig,
    seed: int,
    clock: Clock,
    tenant: str | None = None,
) -> ChosenStart:
    """Return the start that `init` names: `bank`, `text`, `random` or an entry's id.

    `text` is the task's instruction, or its description where there is none. Only prompts that
    `tenant` may see are looked at. With `bank`, a bank of another tokenizer counts as an empty one.
    Raises `BankError` for an unknown entry or for a bank of another base model, tokenizer or prompt
    shape.
    """
    if init == "random":
        prompt = random_init(model, config.virtual_tokens, seed)
        return ChosenStart(prompt, "random", None, "asked for: the cold start of the seed")
    if init == "text":
        return _text_start(model, task, config)
    visible = bank.visible_to(tenant)
    if init == "bank":
        visible = visible.of_model(model.hash, model.tokenizer_hash)
    visible.check_model(model.hash, model.tokenizer_hash)
    visible.check_prompts(config.virtual_tokens, config.position)
    if init == "bank":
        return _bank_start(model, task, visible, config, seed, clock, tenant)
    return ChosenStart(visible[init].prompt, init, init, "asked for by its id")


def as_of_bank(config: TuneConfig, bank: PromptBank) -> TuneConfig:
    """Return the configuration with the virtual tokens and the position of the bank's prompts."""
    for entry in bank:
        position: Position = "prefix" if entry.position == "prefix" else "suffix"
        return replace(config, virtual_tokens=entry.prompt.shape[0], position=position)
    return config


def _text_start(model: BaseModel, task: Task, config: TuneConfig) -> ChosenStart:
    text = task.instruction or task.description
    if not text.strip():
        raise TuningInputError(f"task {task.name!r} has neither instruction nor description")
    name = "text:instruction" if task.instruction else "text:description"
    prompt = text_init(model, text, config.virtual_tokens)
    return ChosenStart(prompt, name, None, "asked for: the task's own words")


def _bank_start(
    model: BaseModel,
    task: Task,
    bank: PromptBank,
    config: TuneConfig,
    seed: int,
    clock: Clock,
    tenant: str | None,
) -> ChosenStart:
    started_s = clock()
    bank = with_output_features(bank, model)
    index = build_index(bank, FEATURE) if len(bank) else None
    found = find_start(model, task, bank, index, config=config, seed=seed, tenant=tenant)
    return ChosenStart(
        prompt=found.choice.prompt,
        name=found.choice.name,
        entry=found.choice.name if found.choice.kind == "bank" else found.choice.source,
        why=found.why,
        lookup_seconds=clock() - started_s,
    )
