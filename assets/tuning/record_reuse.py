"""Record in the bank how well the start of a tuning worked."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from assets.tuning.prompt_bank import bank_url, load_bank
from resources.data_home import DataHome

if TYPE_CHECKING:
    from maitre.bank.lookup import Lookup
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.tasks import Task


def record_reuse(
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    start: "Lookup",
    tuned: "TuneResult",
    cold: "TuneResult | None",
    *,
    run_id: str,
    tenant: str | None,
    check: Callable[[], None],
) -> float | None:
    """Store the iterations that a start took, and credit the bank's entry with those it saved.

    Return the saving: against the cold run where there was one, else against the lookup's
    prediction for a cold start; `None` where the lookup predicted nothing. A run `run_id` that was
    interrupted records nothing twice. `check` runs before each write and raises when another worker
    holds the run by now.

    The record of a `tenant` is private to it. Its run credits its own entries only: the figures of
    a public entry would show to others what it tunes.
    """
    from maitre.bank.bank import PromptBank
    from maitre.bank.history import append_history
    from maitre.bank.ita import StartRecord
    from maitre.tuning.start import label_entropy

    cold_iterations = cold.iterations if cold else start.predicted_cold_iterations
    if cold_iterations is None or start.start_loss is None:
        return None
    url = bank_url(home, model)
    record = StartRecord(
        task=task.name,
        start=start.choice.name,
        start_loss=start.start_loss,
        probed_loss=start.probed_loss,
        entropy=label_entropy(task),
        iterations=tuned.iterations,
        kind=start.choice.kind,
        tenant=tenant,
    )
    saved = float(cold_iterations - tuned.iterations)
    check()
    is_new = append_history(url, [record], source=run_id)
    entry = start.choice.entry
    bank = load_bank(home, model)
    if is_new and entry is not None and entry in bank and bank[entry].tenant == tenant:
        credited = PromptBank((bank[entry].with_use(saved),))
        check()
        credited.save(url)
    return saved
