"""Notes in the bank what a tuning has shown of the start that it was given."""

from typing import TYPE_CHECKING

from assets.prompt_bank import bank_url, load_bank
from resources.data_home import DataHome

if TYPE_CHECKING:
    from maitre.bank.lookup import Lookup
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.tasks import Task


def record_use(
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    start: "Lookup",
    tuned: "TuneResult",
    cold: "TuneResult | None",
) -> float | None:
    """Keep the iterations that a start took, and credit the bank's entry with those it saved.

    Returns what was saved: against the cold run where there was one, else against what the lookup
    predicted for a cold start; `None` where the lookup predicted nothing.
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
    )
    append_history(url, [record])
    saved = float(cold_iterations - tuned.iterations)
    bank = load_bank(home, model)
    entry = start.choice.entry
    if entry is not None and entry in bank:
        PromptBank((bank[entry].with_use(saved),)).save(url)
    return saved
