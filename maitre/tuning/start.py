"""Where to start tuning a task: the bank's prompts against texts and the task's own instruction."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex
from maitre.bank.lookup import ROUNDS_SAMPLES, Candidate, Lookup, lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.encoding import encode
from maitre.tuning.evaluate import evaluate_batches
from maitre.tuning.rows import fixed_batches
from maitre.tuning.soft_prompt import text_init
from maitre.tuning.tasks import Task

VIRTUAL_TOKENS = 8


def find_start(
    model: BaseModel,
    task: Task,
    bank: PromptBank,
    index: BankIndex | None,
    *,
    texts: Sequence[str] = (),
    virtual_tokens: int = VIRTUAL_TOKENS,
    seed: int = 0,
    budget_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Lookup:
    """Look up the best start for `task` among the bank, `texts` and the task's instruction.

    Candidates are scored by their loss on samples of the train split; the eval split is not seen.
    Raises `BankError` when the bank is of another base model or tokenizer.
    """
    bank.check_model(model.hash, model.tokenizer_hash)
    extra = [
        Candidate(f"text:{text}", "text", text_init(model, text, virtual_tokens)) for text in texts
    ]
    if task.instruction:
        prompt = text_init(model, task.instruction, virtual_tokens)
        extra.append(Candidate("instruction", "instruction", prompt))
    return lookup(
        bank,
        index,
        _scorer(model, task, virtual_tokens, seed),
        clock=clock,
        extra=extra,
        budget_s=budget_s,
    )


def _scorer(
    model: BaseModel, task: Task, virtual_tokens: int, seed: int
) -> Callable[[np.ndarray, int], np.ndarray]:
    """The losses of prompts on the first so many of a seeded choice of train examples."""
    encoded = encode(model, task, virtual_tokens)
    order = np.random.default_rng(seed).permutation(len(encoded.train))
    chosen = [encoded.train[i] for i in order[: max(ROUNDS_SAMPLES)]]
    batches = {n: fixed_batches(model, tuple(chosen[:n]), "suffix", n) for n in ROUNDS_SAMPLES}

    def score(prompts: np.ndarray, samples: int) -> np.ndarray:
        losses = [
            evaluate_batches(model, torch.from_numpy(prompt), batches[samples], "suffix")[0]
            for prompt in prompts
        ]
        return np.array(losses)

    return score
