"""Starts that are not in the bank as they are: the task's own words, and mixtures of the bank's."""

from collections.abc import Sequence

import numpy as np
import torch

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry
from maitre.bank.lookup import Candidate
from maitre.tuning.base_model import BaseModel
from maitre.tuning.soft_prompt import random_init, text_init
from maitre.tuning.tasks import Task

LABELS = "label_embedding"
"""The entry's feature that says in which words its task is answered."""

MEAN_OF_BANK = "mean of the bank"

# How often the difference between the tasks' labels is added to each virtual token.
RELABEL_STRENGTHS = (2.0, 4.0)
# A task with more different completions than this is no classification.
_MOST_LABELS = 64
# Below this, two tasks are answered in the same words and relabelling changes nothing.
_SAME_LABELS = 1e-3


def own_candidates(model: BaseModel, task: Task, virtual_tokens: int, seed: int) -> list[Candidate]:
    """Return the starts that need no bank: instruction, description and the cold start."""
    texts = {"instruction": task.instruction, "description": task.description}
    found = [
        Candidate(f"text:{name}", "instruction" if name == "instruction" else "text", prompt)
        for name, text in texts.items()
        if text and text.strip()
        for prompt in [text_init(model, text, virtual_tokens)]
    ]
    return [*found, Candidate("random", "random", random_init(model, virtual_tokens, seed))]


def label_embedding(model: BaseModel, task: Task) -> np.ndarray | None:
    """Return the mean embedding of the first tokens of a task's completions, float32 `[hidden]`.

    `None` where there are too many different completions for the task to be a classification.
    """
    labels = {example.completion for example in task.train}
    if len(labels) > _MOST_LABELS:
        return None
    tokenised = [model.tokenizer(label, add_special_tokens=False).input_ids for label in labels]
    firsts = sorted({ids[0] for ids in tokenised if ids})
    if not firsts:
        return None
    embeddings = model.embed(torch.tensor(firsts, device=model.device)).float().cpu().numpy()
    return np.asarray(embeddings.mean(axis=0), dtype=np.float32)


def mixtures(
    bank: PromptBank, leaders: Sequence[BankEntry], labels: np.ndarray | None
) -> list[Candidate]:
    """Return starts made of the bank's prompts; `leaders` are the task's best, best first.

    Some are the leaders, moved from their own tasks' labels to the new task's (`labels`): the
    virtual tokens stand right before the answer, and a word's embedding there makes the model say
    the word. The others are the mean of the two best and the mean of all prompts: what prompts have
    in common is how to ask.
    """
    found = []
    for entry in leaders:
        own = dict(entry.features).get(LABELS)
        if labels is None or own is None or float(np.abs(labels - own).max()) < _SAME_LABELS:
            continue
        found += [
            Candidate(
                f"relabelled-{strength:g}:{entry.entry_id}",
                "mix",
                entry.prompt + np.float32(strength) * (labels - own),
                source=entry.entry_id,
            )
            for strength in RELABEL_STRENGTHS
        ]
    if len(leaders) > 1:
        best = np.stack([entry.prompt for entry in leaders[:2]])
        found.append(Candidate("mean of the best two", "mix", best.mean(0), leaders[0].entry_id))
    if len(bank) > 2:
        found.append(Candidate(MEAN_OF_BANK, "mix", bank.prompts().mean(0)))
    return found
