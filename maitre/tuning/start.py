"""The best start for a task: the bank's prompts and the task's own words, judged together."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex
from maitre.bank.ita import SHIPPED, ItaModel
from maitre.bank.lookup import SAMPLE_ROUNDS, Candidate, Lookup, ScoredCandidate, lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.candidates import MEAN_OF_BANK, label_embedding, mixtures, own_candidates
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.probe import probe_losses
from maitre.tuning.prompt_scores import PromptScorer
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task

SURE_ITERATIONS = 8.0
"""A start predicted to need no more iterations is chosen without probing, which takes as long."""

# Mixtures are not scored if the best start is predicted to need no more iterations than this.
_NO_MIXTURES = 3.0
# A prompt whose loss is at least this many times the entropy of the task's labels has nothing to do
# with the task. Moved to these labels it would be slower than a cold start, however low it begins.
_RELATED = 3.0
_LEADERS = 3
# Shares of the budget after which there is no time left to score mixtures, and to probe.
_MIX_BEFORE = 0.9
_PROBE_BEFORE = 0.5


@dataclass(frozen=True, eq=False)
class _Judged:
    """A candidate, its loss before and after probing, and its predicted iterations."""

    candidate: Candidate
    start_loss: float
    probed_loss: float | None
    ita: float


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
    sure_iterations: float = SURE_ITERATIONS,
    ita_model: ItaModel | None = None,
) -> Lookup:
    """Look up the prompt to start tuning `task` from: that predicted to need fewest iterations.

    Candidates are the bank's prompts that `tenant` may see, the task's instruction and description
    as text prompts, and the cold start of `seed`. They are scored by their loss on `samples` train
    examples that `seed` draws. Mixtures of the bank's best prompts join them, unless the best
    candidate is predicted to reach the target almost at once. `ita_model` (default: the shipped
    model, refitted to the bank's history) predicts the iterations from the loss. The mean of the
    bank counts as a prompt that is just related to the task, whatever its loss, so it is chosen
    where no prompt of the bank is related.

    With `probe_iterations`, the finalists take that many tuning steps in one shared batch, and the
    loss after these steps counts too. The instruction and the cold start are always finalists.
    Nothing is probed if the best candidate is predicted to reach the target within
    `sure_iterations`. Probing only chooses: the returned prompt is the one before those steps. When
    half the budget is used up, nothing is probed; when nearly all is, no mixtures are scored.

    Everything, tokenising and caching included, is part of the lookup's `seconds`.
    A bank of another tokenizer counts as an empty one. Raises `BankError` for a bank of another
    base model or prompt shape.
    """
    started_s = clock()
    ita_model = ita_model or SHIPPED.refitted(bank.history)
    visible = bank.visible_to(tenant).of_model(model.hash, model.tokenizer_hash)
    index = index if len(visible) else None
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
    entropy = label_entropy(task)

    def judged(candidate: Candidate, start_loss: float, probed_loss: float | None) -> _Judged:
        if candidate.name == MEAN_OF_BANK:
            start = min(start_loss, _RELATED * entropy)
        else:
            start = start_loss
        ita = ita_model.predict(start, probed_loss, entropy)
        return _Judged(candidate, start_loss, probed_loss, ita)

    def is_decided(iterations: float, share: float) -> bool:
        return ranked[0].ita <= iterations or clock() - started_s > share * budget_s

    losses = {c.name: c.loss for c in found.candidates}
    known = {c: losses[c.name] for c in found.finalists}
    ranked = sorted((judged(c, loss, None) for c, loss in known.items()), key=_order)
    if not is_decided(min(_NO_MIXTURES, sure_iterations), _MIX_BEFORE):
        others = [*_mixed_candidates(model, task, visible, found), *_obvious_starts(own)]
        scored = dict(zip(others, _losses(scorer, others, len(drawn)), strict=True))
        found = _with_scores(found, scored, len(drawn))
        known |= {c: loss for c, loss in scored.items() if _may_start(c, loss, entropy)}
        ranked = sorted((judged(c, loss, None) for c, loss in known.items()), key=_order)
    if probe_iterations and not is_decided(sure_iterations, _PROBE_BEFORE):
        finalists = _finalists(known)
        after = probe_losses(
            model,
            task,
            [candidate.prompt for candidate in finalists],
            config=config,
            iterations=probe_iterations,
            seed=seed,
        )
        probed = zip(finalists, after, strict=True)
        ranked = sorted((judged(c, known[c], loss) for c, loss in probed), key=_order)
    cold = [j.ita for j in ranked if j.candidate.kind == "random"]
    return replace(
        found,
        choice=ranked[0].candidate,
        finalists=tuple(j.candidate for j in ranked),
        why=_reason(ranked, found),
        start_loss=ranked[0].start_loss,
        probed_loss=ranked[0].probed_loss,
        predicted_iterations=ranked[0].ita,
        predicted_cold_iterations=cold[0]
        if cold
        else ita_model.predict(losses["random"], None, entropy),
        seconds=clock() - started_s,
    )


def label_entropy(task: Task) -> float:
    """Return the entropy (nats) of the completions of the train split."""
    counts = Counter(example.completion for example in task.train)
    total = len(task.train)
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _order(judged: _Judged) -> tuple[float, float]:
    return judged.ita, judged.start_loss


def _mixed_candidates(
    model: BaseModel, task: Task, bank: PromptBank, found: Lookup
) -> list[Candidate]:
    leaders = [bank[c.name] for c in found.finalists if c.kind == "bank"][:_LEADERS]
    return mixtures(bank, leaders, label_embedding(model, task))


def _obvious_starts(own: Sequence[Candidate]) -> list[Candidate]:
    """Return the obvious starts, which are always probed: a lookup must not do worse."""
    return [candidate for candidate in own if candidate.kind in ("instruction", "random")]


def _finalists(known: dict[Candidate, float]) -> list[Candidate]:
    """Return what to probe: the best prompt and mixture, the bank's mean and the task's words."""
    by_loss = sorted(known, key=lambda candidate: known[candidate])
    best = [c for c in by_loss if c.kind == "bank"][:1]
    best += [c for c in by_loss if c.kind == "mix"][:1]
    best += [c for c in by_loss if c.name == MEAN_OF_BANK]
    return list({c.name: c for c in (*best, *_obvious_starts(by_loss))}.values())


def _losses(scorer: PromptScorer, candidates: Sequence[Candidate], samples: int) -> list[float]:
    if not candidates:
        return []
    losses = scorer(np.stack([c.prompt for c in candidates]), range(samples))
    return [float(loss) if np.isfinite(loss) else math.inf for loss in losses]


def _may_start(candidate: Candidate, loss: float, entropy: float) -> bool:
    is_safe = candidate.kind != "mix" or candidate.name == MEAN_OF_BANK
    return is_safe or loss <= _RELATED * entropy


def _with_scores(found: Lookup, scored: dict[Candidate, float], samples: int) -> Lookup:
    """Return the lookup with the later scores added, each candidate once."""
    fresh = [ScoredCandidate(c.name, c.kind, loss, samples) for c, loss in scored.items()]
    names = {c.name for c in fresh}
    before = [c for c in found.candidates if c.name not in names]
    ranked = sorted([*fresh, *before], key=lambda c: (-c.samples, c.loss))
    evaluated = found.evaluated + len(scored) * samples
    return replace(found, candidates=tuple(ranked), evaluated=evaluated)


def _reason(ranked: Sequence[_Judged], found: Lookup) -> str:
    best = ranked[0]
    probed = "" if best.probed_loss is None else f", {best.probed_loss:.3f} after probing"
    following = "" if len(ranked) < 2 else f"; next {_sentence(ranked[1])}"
    return (
        f"{best.candidate.kind} prompt {_sentence(best)} (loss {best.start_loss:.3f}{probed})"
        f"{following}; by loss, {found.why}"
    )


def _sentence(judged: _Judged) -> str:
    return f"{judged.candidate.name} is predicted to need {judged.ita:.1f} iterations"


def random_start(model: BaseModel, virtual_tokens: int, seed: int) -> Lookup:
    """Return the random start of the seed, as a lookup that asked no bank."""
    cold = Candidate("random", "random", random_init(model, virtual_tokens, seed))
    return Lookup(cold, (), (cold,), 0, "no lookup was asked for", 0.0)
