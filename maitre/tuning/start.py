"""The best start for a task: the bank's prompts and the task's own words, scored together."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex
from maitre.bank.lookup import SAMPLE_ROUNDS, Candidate, Lookup, lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.probe import probe_losses
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
    probe_iterations: int = 0,
) -> Lookup:
    """Look up the prompt to start tuning `task` from.

    Candidates are the bank's prompts that `tenant` may see, the task's instruction and description
    as text prompts, and the cold start of `seed`; they are scored by their loss on `samples` train
    examples, drawn by `seed`. Tokenising and caching those is part of the lookup's `seconds`.

    With `probe_iterations`, each of the finalists (the best few, the instruction and the cold
    start among them) takes so many tuning steps, and the one with the lowest loss afterwards, on
    train examples that it has not seen, is chosen; where the budget is used up, none does.
    Raises `BankError` for a bank of another base model, tokenizer or prompt shape.
    """
    started_s = clock()
    visible = bank.visible_to(tenant)
    visible.check_model(model.hash, model.tokenizer_hash)
    visible.check_prompts(config.virtual_tokens, config.position)
    order = np.random.default_rng(seed).permutation(len(task.train))[:samples]
    drawn = encode(model, task, config.virtual_tokens, train=order.tolist(), eval=()).train
    scorer = PromptScorer(model, drawn, config.position)
    own = own_candidates(model, task, config.virtual_tokens, seed)
    found = lookup(
        visible,
        index,
        scorer,
        len(drawn),
        candidates_extra=own,
        budget_s=budget_s - (clock() - started_s),
        clock=clock,
        exhaustive=exhaustive,
    )
    if probe_iterations and clock() - started_s < budget_s:
        found = _probed(model, task, found, own, config, probe_iterations, seed)
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


def _probed(
    model: BaseModel,
    task: Task,
    found: Lookup,
    own: Sequence[Candidate],
    config: TuneConfig,
    iterations: int,
    seed: int,
) -> Lookup:
    """The lookup with the choice made by what the finalists become in a few steps."""
    always = [candidate for candidate in own if candidate.kind in ("instruction", "random")]
    finalists = list({c.name: c for c in (*found.finalists, *always)}.values())
    losses = probe_losses(
        model,
        task,
        [candidate.prompt for candidate in finalists],
        config=config,
        iterations=iterations,
        seed=seed,
    )
    ranked = sorted(zip(losses, finalists, strict=True), key=lambda pair: pair[0])
    loss, choice = ranked[0]
    next_best = f", next {ranked[1][1].name} with {ranked[1][0]:.3f}" if len(ranked) > 1 else ""
    return replace(
        found,
        choice=choice,
        finalists=tuple(candidate for _, candidate in ranked),
        why=(
            f"{choice.kind} prompt {choice.name} comes to the lowest loss in {iterations} "
            f"iterations, {loss:.3f}{next_best}; before them, {found.why}"
        ),
    )
