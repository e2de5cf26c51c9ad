"""The best start for a task: the bank's prompts and the task's own words, scored together."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex
from maitre.bank.lookup import SAMPLE_ROUNDS, Candidate, Lookup, lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.prompt_scores import PromptScorer
from maitre.tuning.soft_prompt import random_init, text_init
from maitre.tuning.tasks import Task


def find_start(
    model: BaseModel,
    task: Task,
    bank: PromptBank,
    index: BankIndex | None = None,
    *,
    config: TuneConfig,
    seed: int,
    tenant: str | None = None,
    samples: int = SAMPLE_ROUNDS[-1],
    budget_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    exhaustive: bool = False,
) -> Lookup:
    """Look up the prompt to start tuning `task` from.

    Candidates are the bank's prompts that `tenant` may see, the task's instruction and description
    as text prompts, and the cold start of `seed`; they are scored by their loss on `samples` train
    examples, drawn by `seed`. Tokenising and caching those is part of the lookup's `seconds`.
    Raises `BankError` for a bank of another base model, tokenizer or prompt shape.
    """
    started_s = clock()
    visible = bank.visible_to(tenant)
    visible.check_model(model.hash, model.tokenizer_hash)
    visible.check_prompts(config.virtual_tokens, config.position)
    order = np.random.default_rng(seed).permutation(len(task.train))[:samples]
    drawn = encode(model, task, config.virtual_tokens, train=order.tolist(), eval=()).train
    scorer = PromptScorer(model, drawn, config.position)
    found = lookup(
        visible,
        index,
        scorer,
        len(drawn),
        candidates_extra=own_candidates(model, task, config.virtual_tokens, seed),
        budget_s=budget_s - (clock() - started_s),
        clock=clock,
        exhaustive=exhaustive,
    )
    return replace(found, seconds=clock() - started_s)


def own_candidates(model: BaseModel, task: Task, virtual_tokens: int, seed: int) -> list[Candidate]:
    """The starts that need no bank: instruction, description and the cold start."""
    texts = {"instruction": task.instruction, "description": task.description}
    found = [
        Candidate(f"text:{name}", "instruction" if name == "instruction" else "text", prompt)
        for name, text in texts.items()
        if text and text.strip()
        for prompt in [text_init(model, text, virtual_tokens)]
    ]
    return [*found, Candidate("random", "random", random_init(model, virtual_tokens, seed))]
