"""`maitre tune --local`: a start, a tuning run and its report, in this process."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maitre.cli.output import print_json
from maitre.cli.places import bank_url, task_folder

if TYPE_CHECKING:
    from maitre.bank.bank import PromptBank
    from maitre.tuning.chosen_start import ChosenStart
    from maitre.tuning.config import Position, Progress, TuneConfig, TuneResult
    from maitre.tuning.tasks import Task


@dataclass(frozen=True)
class LocalTuning:
    """What the user asked for; `None` is the tuner's own default, or the bank's way."""

    task: str
    init: str
    seed: int
    max_iterations: int
    target_loss: float | None
    target_accuracy: float | None
    bank: str | None
    tenant: str | None
    leave_out: tuple[str, ...]
    position: "Position | None"
    virtual_tokens: int | None
    learning_rate: float | None
    batch_size: int | None
    eval_every: int
    checkpoint: Path | None
    out: Path | None


def tune_here(asked: LocalTuning, json: bool) -> None:
    """Look up the start, tune, and print the report; `out` appears whole or not at all."""
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.chosen_start import choose_start
    from maitre.tuning.export import check_new_folder, export_prompt
    from maitre.tuning.tasks import Task
    from maitre.tuning.tune import tune
    from resources.settings import Settings

    if asked.out is not None:
        check_new_folder(asked.out)
    task = Task.load(task_folder(asked.task))
    bank = _bank(asked)
    config = _config(asked, bank)
    base_model = Settings.read().base_model
    model = BaseModel.load(base_model)
    start = choose_start(
        model,
        task,
        asked.init,
        bank,
        config=config,
        seed=asked.seed,
        tenant=asked.tenant,
        clock=time.monotonic,
    )
    result = tune(
        model,
        task,
        init=start.prompt,
        config=config,
        seed=asked.seed,
        checkpoint=asked.checkpoint,
        on_progress=None if json else _tell,
    )
    if asked.out is not None:
        export_prompt(
            result.prompt,
            asked.out,
            position=config.position,
            base_model=base_model,
            base_model_hash=model.hash,
        )
    report = _report(asked, task, config, start, result)
    if json:
        print_json(report)
    else:
        print(_sentence(report))


def _bank(asked: LocalTuning) -> "PromptBank":
    """The bank to start from; without one in the data home, an empty one."""
    from maitre.bank.bank import PromptBank

    # A start that is named needs no bank; a bank that is named must be there.
    needs_none = asked.bank is None and asked.init in ("bank", "text", "random")
    bank = PromptBank.load(bank_url(asked.bank), missing_ok=needs_none)
    return bank.without(entry.entry_id for entry in bank if entry.task in asked.leave_out)


def _config(asked: LocalTuning, bank: "PromptBank") -> "TuneConfig":
    from maitre.tuning.chosen_start import as_of_bank
    from maitre.tuning.config import TuneConfig

    given = {
        name: value
        for name in ("position", "virtual_tokens", "learning_rate", "batch_size")
        if (value := getattr(asked, name)) is not None
    }
    return replace(
        as_of_bank(TuneConfig(), bank),
        max_iterations=asked.max_iterations,
        target_loss=asked.target_loss,
        target_accuracy=asked.target_accuracy,
        eval_every=asked.eval_every,
        **given,
    )


def _report(
    asked: LocalTuning,
    task: "Task",
    config: "TuneConfig",
    start: "ChosenStart",
    result: "TuneResult",
) -> dict[str, Any]:
    """The figures of the run; `seconds` is the wall time of lookup and tuning.

    Loading the base model is not in it: a worker holds its model.
    """
    return {
        "task": task.name,
        "reached": result.reached,
        "iterations": result.iterations,
        "eval_loss": result.eval_loss,
        "eval_accuracy": result.eval_accuracy,
        "majority_share": task.majority_share(),
        "seconds": start.lookup_seconds + result.seconds,
        "lookup_seconds": start.lookup_seconds,
        "curve": [[iteration, loss] for iteration, loss, _ in result.curve],
        "accuracy_curve": [[iteration, accuracy] for iteration, _, accuracy in result.curve],
        "stopped_because": result.stopped_because,
        "init": asked.init,
        "entry": start.entry,
        "start": start.name,
        "why": start.why,
        "seed": asked.seed,
        "config": {
            name: getattr(config, name)
            for name in (
                "virtual_tokens",
                "position",
                "learning_rate",
                "batch_size",
                "eval_every",
                "max_iterations",
                "target_loss",
                "target_accuracy",
            )
        },
        "out": None if asked.out is None else str(asked.out),
    }


def _sentence(report: dict[str, Any]) -> str:
    ended = {
        "target": "reached its target",
        "max_iterations": "ended at the iteration limit",
        "cancelled": "was cancelled",
        "diverged": "became no number (NaN) and was stopped; the best prompt before that is kept",
    }[report["stopped_because"]]
    return (
        f"{report['task']} {ended} after {report['iterations']} iterations and "
        f"{report['seconds']:.1f} s (lookup {report['lookup_seconds']:.1f} s): eval loss "
        f"{report['eval_loss']:.3f}, accuracy {report['eval_accuracy']:.3f} against "
        f"{report['majority_share']:.3f} for the commonest answer; started from {report['start']}"
    )


def _tell(progress: "Progress") -> None:
    if progress.eval_loss is not None:
        print(
            f"iteration {progress.iteration}: eval loss {progress.eval_loss:.3f}, "
            f"accuracy {progress.eval_accuracy:.3f}",
            file=sys.stderr,
        )
