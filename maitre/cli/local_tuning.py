"""`maitre tune --local`: a start, a tuning run and its report, in this process."""

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maitre.cli.interrupt import EXIT_CODE, stops_at_next_step, was_interrupted
from maitre.cli.output import check_writable, print_json
from maitre.cli.places import bank_url, task_folder
from maitre.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from maitre.bank.bank import PromptBank
    from maitre.settings import Settings
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.chosen_start import ChosenStart
    from maitre.tuning.config import (
        IterationReport,
        LoraConfig,
        Position,
        RunConfig,
        TuneConfig,
        TuneResult,
    )
    from maitre.tuning.lora import LoraResult
    from maitre.tuning.tasks import Task
    from maitre.tuning.workers import Workers


OF_ADAPTERS = ("rank", "alpha", "dropout", "target_modules")


@dataclass(frozen=True)
class LocalTuning:
    """What the user asked for; `None` is the tuner's own default, or the bank's way."""

    task: str
    method: Literal["prompt", "lora"]
    init: str | None
    seed: int
    max_iterations: int
    target_loss: float | None
    target_accuracy: float | None
    bank: str | None
    tenant: str | None
    leave_out: tuple[str, ...]
    position: "Position | None"
    virtual_tokens: int | None
    rank: int | None
    alpha: float | None
    dropout: float | None
    target_modules: tuple[str, ...] | None
    learning_rate: float | None
    batch_size: int | None
    eval_every: int
    workers: int
    checkpoint: Path | None
    out: Path | None

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the named options that the user has set."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def limits(self) -> dict[str, Any]:
        """Return the settings that a soft prompt's and an adapter's configuration share."""
        return {
            "max_iterations": self.max_iterations,
            "target_loss": self.target_loss,
            "target_accuracy": self.target_accuracy,
            "eval_every": self.eval_every,
            **self.given("learning_rate", "batch_size"),
        }


def tune_here(settings: "Settings", asked: LocalTuning, json: bool) -> None:
    """Look up the start, tune, and print the report; `out` appears whole or not at all.

    Ctrl-C cancels the tuning: its report says so and the exit code is an interrupt's.
    """
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.export import check_new_folder
    from maitre.tuning.tasks import Task

    if asked.out is not None:
        check_new_folder(asked.out)
        check_writable(asked.out, folder=True)
    if asked.checkpoint is not None:
        check_writable(asked.checkpoint)
    task = Task.load(task_folder(settings, asked.task))
    base_model = settings.base_model
    if asked.method == "lora":
        lora = _lora_config(asked)
        report = _tune_lora(asked, task, lora, BaseModel.load(base_model), base_model, json)
    else:
        bank = _bank(settings, asked)
        config = _prompt_config(asked, bank)
        model = BaseModel.load(base_model)
        report = _tune_prompt(asked, task, config, bank, model, base_model, json)
    if json:
        print_json(report)
    else:
        print(_sentence(report))
    if report["stopped_because"] == "cancelled":
        sys.exit(EXIT_CODE)


def _tune_prompt(
    asked: LocalTuning,
    task: "Task",
    config: "TuneConfig",
    bank: "PromptBank",
    model: "BaseModel",
    base_model: str,
    json: bool,
) -> dict[str, Any]:
    from maitre.tuning.chosen_start import choose_start
    from maitre.tuning.export import export_prompt
    from maitre.tuning.prompt_tokens import PromptTokens

    start = choose_start(
        model,
        task,
        asked.init or "bank",
        bank,
        config=config,
        seed=asked.seed,
        tenant=asked.tenant,
        clock=time.monotonic,
    )
    result: TuneResult = _run(asked, task, config, start.prompt, model, base_model, json)
    if asked.out is not None:
        export_prompt(
            result.prompt,
            asked.out,
            position=config.position,
            base_model=base_model,
            base_model_hash=model.hash,
            tenant=asked.tenant,
            fold_system=task.fold_system,
            max_new_tokens=PromptTokens(model.tokenizer).longest_answer(task.labels),
        )
    return _report(asked, task, config, result, start)


def _tune_lora(
    asked: LocalTuning,
    task: "Task",
    config: "LoraConfig",
    model: "BaseModel",
    base_model: str,
    json: bool,
) -> dict[str, Any]:
    from maitre.tuning.lora import export_lora

    result: LoraResult = _run(asked, task, config, None, model, base_model, json)
    if asked.out is not None:
        export_lora(result, asked.out, base_model=base_model)
    return _report(asked, task, config, result, None)


def _run(
    asked: LocalTuning,
    task: "Task",
    config: "TuneConfig | LoraConfig",
    init: "np.ndarray | None",
    model: "BaseModel",
    base_model: str,
    json: bool,
) -> Any:
    """Return the result of the run, which uses as many processes as requested."""
    from maitre.tuning.local_workers import with_workers

    part = partial(
        _part,
        task=task,
        config=config,
        init=init,
        seed=asked.seed,
        checkpoint=asked.checkpoint,
        tenant=asked.tenant,
        quiet=json,
    )
    with stops_at_next_step():
        return with_workers(model, base_model, asked.workers, part)


def _part(
    model: "BaseModel",
    workers: "Workers",
    *,
    task: "Task",
    config: "TuneConfig | LoraConfig",
    init: "np.ndarray | None",
    seed: int,
    checkpoint: Path | None,
    tenant: str | None,
    quiet: bool,
) -> "TuneResult | LoraResult":
    """Do one worker's part: tune a soft prompt from `init`, or an adapter."""
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.lora import tune_lora
    from maitre.tuning.tune import tune

    tuner: Any = partial(tune, init=init) if isinstance(config, TuneConfig) else tune_lora
    result: TuneResult | LoraResult = tuner(
        model,
        task,
        config=config,
        seed=seed,
        checkpoint=checkpoint,
        tenant=tenant,
        workers=workers,
        on_iteration=None if quiet or not workers.is_first else _print_iteration,
        should_stop=was_interrupted,
    )
    return result


def _bank(settings: "Settings", asked: LocalTuning) -> "PromptBank":
    """Return the bank to start from; an empty bank when the data home has no bank."""
    from maitre.bank.bank import PromptBank

    # A start that is named needs its bank; a bank that is named must be there.
    needs_none = asked.bank is None and asked.init in (None, "bank", "text", "random")
    bank = PromptBank.load(bank_url(settings, asked.bank), missing_ok=needs_none)
    known = {entry.task for entry in bank}
    for task in asked.leave_out:
        if task not in known and not task_folder(settings, task).is_dir():
            raise UserError(
                f"--leave-out: expected a task of the bank or of the tasks folder; got {task!r}"
            )
    return bank.without(entry.entry_id for entry in bank if entry.task in asked.leave_out)


def _prompt_config(asked: LocalTuning, bank: "PromptBank") -> "TuneConfig":
    from maitre.tuning.chosen_start import as_of_bank
    from maitre.tuning.config import TuneConfig, TuningInputError

    if of_adapters := asked.given(*OF_ADAPTERS):
        name = next(iter(of_adapters)).replace("_", "-")
        raise TuningInputError(f"--{name} is for adapters: give --method lora too")
    shape = asked.given("position", "virtual_tokens")
    return replace(as_of_bank(TuneConfig(), bank), **asked.limits(), **shape)


def _lora_config(asked: LocalTuning) -> "LoraConfig":
    from maitre.tuning.config import LoraConfig, TuningInputError

    if asked.init not in (None, "random"):
        raise TuningInputError(f"--init {asked.init}: with --method lora expected random")
    if of_prompts := asked.given("position", "virtual_tokens", "bank"):
        name = next(iter(of_prompts)).replace("_", "-")
        raise TuningInputError(f"--{name} is for soft prompts: leave it out with --method lora")
    return LoraConfig(**asked.limits(), **asked.given(*OF_ADAPTERS))


def _report(
    asked: LocalTuning,
    task: "Task",
    config: "RunConfig",
    result: "TuneResult | LoraResult",
    start: "ChosenStart | None",
) -> dict[str, Any]:
    """Return the figures of the run; `seconds` is the wall time of lookup and tuning.

    Loading the base model is not in it: a worker holds its model.
    """
    lookup_seconds = start.lookup_seconds if start else 0.0
    return {
        "task": task.name,
        "method": asked.method,
        "reached": result.reached,
        "iterations": result.iterations,
        "eval_loss": result.eval_loss,
        "eval_accuracy": result.eval_accuracy,
        "majority_share": task.majority_share(),
        "seconds": lookup_seconds + result.seconds,
        "lookup_seconds": lookup_seconds,
        "curve": [[iteration, loss] for iteration, loss, _ in result.curve],
        "accuracy_curve": [[iteration, accuracy] for iteration, _, accuracy in result.curve],
        "stopped_because": result.stopped_because,
        "init": asked.init or ("bank" if asked.method == "prompt" else "random"),
        "entry": start.entry if start else None,
        "start": start.name if start else "random",
        "why": start.why if start else "an adapter starts from the draw of its seed",
        "seed": asked.seed,
        "workers": asked.workers,
        "config": asdict(config),
        "out": None if asked.out is None else str(asked.out),
    }


def _sentence(report: dict[str, Any]) -> str:
    ended = {
        "target": "reached its target",
        "max_iterations": "ended at the iteration limit",
        "cancelled": "was cancelled",
        "diverged": "came to a loss that is not a number and was stopped; the best before is kept",
    }[report["stopped_because"]]
    return (
        f"{report['task']} {ended} after {report['iterations']} iterations and "
        f"{report['seconds']:.1f} s (lookup {report['lookup_seconds']:.1f} s): eval loss "
        f"{report['eval_loss']:.3f}, accuracy {report['eval_accuracy']:.3f} against "
        f"{report['majority_share']:.3f} for the commonest answer; started from {report['start']}"
    )


def _print_iteration(report: "IterationReport") -> None:
    if report.eval_loss is not None:
        print(
            f"iteration {report.iteration}: eval loss {report.eval_loss:.3f}, "
            f"accuracy {report.eval_accuracy:.3f}",
            file=sys.stderr,
        )
