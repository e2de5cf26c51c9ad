"""A few steps from each of some starts: how fast each learns says more than how low it begins."""

from collections.abc import Sequence

import numpy as np
import torch

from maitre.tuning.adam import AdamState, adam_step
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.forward import answer_losses
from maitre.tuning.prompt_scores import PromptScorer
from maitre.tuning.rows import InputCache, repeated
from maitre.tuning.tasks import Task

PROBE_EVAL_ROWS = 32
PASS_ROWS = 128
"""Rows of different starts that go through the model together."""


def probe_losses(
    model: BaseModel,
    task: Task,
    starts: Sequence[np.ndarray],
    *,
    config: TuneConfig,
    iterations: int,
    seed: int,
) -> list[float]:
    """Return the loss of each start after a few iterations, all in one shared batch.

    The loss is measured on train examples that those iterations do not see (a third of all, at most
    `PROBE_EVAL_ROWS`), so the eval split has no part in the choice. A loss that is not a number
    counts as infinite. With fewer than two train examples nothing can be measured: all losses are
    equal.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(task.train)).tolist()
    kept_out = min(PROBE_EVAL_ROWS, len(order) // 3) or len(order) // 2
    if not kept_out:
        return [0.0] * len(starts)
    size, learned_from = config.batch_size, order[kept_out:]
    places = [place % len(learned_from) for place in range(iterations * size)]
    used = max(places, default=0) + 1
    picked = learned_from[:used] + order[:kept_out]
    encoded = encode(model, task, config.virtual_tokens, train=picked, eval=()).train
    cache = InputCache(
        model, encoded[:used], config.position, config.cache_limit_bytes, [range(used)]
    )
    prompts = torch.from_numpy(np.stack(starts).astype(np.float32)).to(model.device)
    together = max(1, PASS_ROWS // size)
    for first in range(0, len(starts), together):
        group = slice(first, first + together)
        prompts[group] = _after_steps(model, prompts[group], cache, places, config)
    held = PromptScorer(model, encoded[used:], config.position)
    found = held(prompts.cpu().numpy(), range(kept_out))
    return [float(loss) if np.isfinite(loss) else float("inf") for loss in found]


def _after_steps(
    model: BaseModel,
    prompts: torch.Tensor,
    cache: InputCache,
    places: Sequence[int],
    config: TuneConfig,
) -> torch.Tensor:
    """Return the prompts `[n, virtual_tokens, hidden]` after a step on each batch of `places`."""
    size = config.batch_size
    owner = [start for start in range(len(prompts)) for _ in range(size)]
    adam = AdamState.fresh(prompts)
    for iteration in range(len(places) // size):
        rows = repeated(cache.batch(places[iteration * size :][:size]), len(prompts))
        learned = prompts.clone().requires_grad_()
        losses, _ = answer_losses(model, learned[owner], rows, config.position)
        # The sum of each start's mean: every start gets the gradient of its own.
        [gradient] = torch.autograd.grad(losses.sum() / size, learned)
        prompts, adam = adam_step(prompts, gradient, adam, config.learning_rate_at(iteration))
    return prompts
