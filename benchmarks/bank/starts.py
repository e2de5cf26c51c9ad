"""Iterations and time to a target, from the bank's choice, the task's words and a cold start.

Each task is held out: the bank that it starts from holds no prompt of it. The target is fixed
beforehand by a cold run of another seed. What has been measured is kept in a file, so that the
work can be cut into pieces.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import progress
from maitre.bank.bank import PromptBank
from maitre.tuning.base_model import BaseModel
from maitre.tuning.chosen_start import choose_start
from maitre.tuning.config import TuneConfig
from maitre.tuning.target import target_loss
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune_many

COMPARED = ("cold", "text", "bank")
"""The starts whose ratios are figures with a reach."""

STARTS = (*COMPARED, "bank without relatives")
REFERENCE_SEED = 1000
LEAST_MARGIN = 0.1
"""By how much the reference run's accuracy must beat the majority class for a task to count."""


class TimeIsUpError(Exception):
    """This piece of the work is done; what it measured is kept."""


class Measured:
    """Records by what they were measured of, in a JSON-lines file that only grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.is_file() else []
        self._records = {record["key"]: record for record in map(json.loads, lines)}

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record; `None` when it has not been measured."""
        return self._records.get(key)

    def put(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Keep a record."""
        record = {"key": key, **record}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as sink:
            sink.write(json.dumps(record) + "\n")
        self._records[key] = record
        return record


@dataclass(frozen=True)
class Comparison:
    """One held-out task and seed: the run to the target from each start.

    `runs[start]` holds `iterations`, `reached`, `seconds` (the lookup's included; `None` for a run
    in a shared batch), `lookup_seconds`, `choice` and `first_loss`. Starts are `cold`, `text`,
    `bank`, and `bank without relatives`, whose bank holds no prompt of the task's group.
    """

    task: str
    group: str | None
    seed: int
    target: float
    relatives: int
    runs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """What all comparisons share."""

    model: BaseModel
    bank: PromptBank
    config: TuneConfig
    measured: Measured
    lookups_again: bool = False
    stop_at_s: float = float("inf")

    def target(self, task: Task) -> float | None:
        """Return the loss to reach; `None` where the reference run did not learn the task."""
        config = replace(self.config, target_loss=None, target_accuracy=None)
        [run] = self._runs(task, [(None, REFERENCE_SEED)], config)
        accuracy = max(accuracy for _, _, accuracy in run["curve"])
        if accuracy < task.majority_share() + LEAST_MARGIN:
            return None
        return target_loss(task, [(i, loss, acc) for i, loss, acc in run["curve"]])

    def compare(
        self, task: Task, starts: Sequence[str], seeds: Sequence[int], timed: int, target: float
    ) -> list[Comparison]:
        """Return the runs of every start.

        The first `timed` seeds run alone, one after another, for their wall time; the others share
        one batch.
        """
        relatives = [e for e in self.bank if e.group == task.group and e.task != task.name]
        wanted = {(s, seed): self._begin(task, s, seed) for seed in seeds for s in starts}
        config = replace(self.config, target_loss=target)
        runs: dict[tuple[str, int], dict[str, Any]] = {}
        for seed in seeds[:timed]:
            for start in starts:
                [run] = self._runs(
                    task, [(wanted[start, seed].prompt, seed)], config, is_timed=True
                )
                runs[start, seed] = run
        rest = [place for place in wanted if place not in runs]
        begun = [(wanted[place].prompt, place[1]) for place in rest]
        runs |= zip(rest, self._runs(task, begun, config), strict=True)
        return [
            Comparison(
                task=task.name,
                group=task.group,
                seed=seed,
                target=target,
                relatives=len(relatives),
                runs={
                    start: _summed_up(runs[start, seed], wanted[start, seed]) for start in starts
                },
            )
            for seed in seeds
        ]

    def _begin(self, task: Task, start: str, seed: int) -> "Begin":
        if start == "cold":
            return Begin(None, start, 0.0)
        if start == "text":
            return Begin(self._choose(task, "text", PromptBank(), seed).prompt, start, 0.0)
        return self._lookup(task, start, seed)

    def _lookup(self, task: Task, start: str, seed: int) -> "Begin":
        """Return the bank's choice without the task's own prompts; store all but the prompt."""
        is_left_out = (
            (lambda entry: entry.task == task.name)
            if start == "bank"
            else (lambda entry: entry.task == task.name or entry.group == task.group)
        )
        bank = self.bank.without(entry.entry_id for entry in self.bank if is_left_out(entry))
        contents = [entry.entry_id for entry in bank]
        key = _key(
            "lookup", self.model.hash, task.fingerprint(), asdict(self.config), seed, contents
        )
        found = None if self.lookups_again else self.measured.get(key)
        if found is None:
            chosen = self._choose(task, "bank", bank, seed)
            found = self.measured.put(
                key,
                {
                    "kind": "lookup",
                    "task": task.name,
                    "seed": seed,
                    "start": start,
                    "choice": chosen.name,
                    "prompt": None if chosen.name in bank else chosen.prompt.tolist(),
                    "seconds": chosen.lookup_seconds,
                    "why": chosen.why,
                },
            )
        prompt = found["prompt"]
        values = bank[found["choice"]].prompt if prompt is None else np.array(prompt, np.float32)
        return Begin(values, found["choice"], found["seconds"])

    def _choose(self, task: Task, init: str, bank: PromptBank, seed: int) -> Any:
        return choose_start(
            self.model,
            task,
            init,
            bank,
            config=self.config,
            seed=seed,
            clock=time.perf_counter,
        )

    def _runs(
        self,
        task: Task,
        begun: Sequence[tuple[np.ndarray | None, int]],
        config: TuneConfig,
        is_timed: bool = False,
    ) -> list[dict[str, Any]]:
        """Return a run for each prompt and seed; those not yet measured share a batch."""
        model = (self.model.hash, str(self.model.dtype), str(self.model.device))
        settings = (*model, task.fingerprint(), asdict(config))
        keys = [_key("run", *settings, seed, _digest(prompt)) for prompt, seed in begun]
        unknown: dict[str, tuple[np.ndarray | None, int]] = {}
        for key, one in zip(keys, begun, strict=True):
            known = self.measured.get(key)
            if known is None or (is_timed and known["seconds"] is None):
                unknown[key] = one
        if unknown:
            if time.perf_counter() > self.stop_at_s:
                raise TimeIsUpError
            results = tune_many(
                self.model,
                [task] * len(unknown),
                inits=[prompt for prompt, _ in unknown.values()],
                config=config,
                seeds=[seed for _, seed in unknown.values()],
                clock=time.perf_counter,
            )
            for (key, (prompt, seed)), result in zip(unknown.items(), results, strict=True):
                self.measured.put(
                    key,
                    {
                        "kind": "run",
                        "task": task.name,
                        "seed": seed,
                        "begin": _digest(prompt)[:12],
                        "iterations": result.iterations,
                        "reached": result.reached,
                        "seconds": result.seconds if len(unknown) == 1 else None,
                        "curve": [list(point) for point in result.curve],
                    },
                )
        return [record for key in keys if (record := self.measured.get(key)) is not None]


@dataclass(frozen=True, eq=False)
class Begin:
    """A prompt to start from (`None`: cold), what it is, and the seconds it took to look up."""

    prompt: np.ndarray | None
    choice: str
    lookup_seconds: float


def _summed_up(run: dict[str, Any], begin: Begin) -> dict[str, Any]:
    seconds = run["seconds"]
    return {
        "iterations": run["iterations"],
        "reached": run["reached"],
        "seconds": None if seconds is None else seconds + begin.lookup_seconds,
        "lookup_seconds": begin.lookup_seconds,
        "choice": begin.choice,
        "first_loss": run["curve"][0][1],
    }


def _digest(prompt: np.ndarray | None) -> str:
    return "cold" if prompt is None else hashlib.sha256(prompt.tobytes()).hexdigest()


def compare_all(
    bench: Bench,
    tasks: Sequence[Task],
    held_out: int,
    starts: Sequence[str],
    seeds: Sequence[int],
    timed: int,
) -> tuple[list[Comparison], list[str]]:
    """Compare on the first `held_out` tasks that count; also the names of those that do not."""
    found: list[Comparison] = []
    passed_over: list[str] = []
    counted = 0
    for task in tasks:
        if counted == held_out:
            break
        target = bench.target(task)
        if target is None:
            passed_over.append(task.name)
            progress(f"{task.name}: not learned by the reference run; does not count")
            continue
        counted += 1
        of_task = bench.compare(task, starts, seeds, timed, target)
        for one in of_task:
            progress(_line(one))
        found += of_task
    return found, passed_over


def _line(one: Comparison) -> str:
    runs = ", ".join(
        f"{name} {run['iterations']}{'' if run['reached'] else '+'}"
        + ("" if run["seconds"] is None else f" in {run['seconds']:.1f} s")
        for name, run in one.runs.items()
    )
    choice = f"; {one.runs['bank']['choice']}" if "bank" in one.runs else ""
    return f"{one.task} seed {one.seed}: loss {one.target:.3f}; {runs}{choice}"


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
