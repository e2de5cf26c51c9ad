"""Measures the prompt bank and tuning: `python -m benchmarks.bank steps|shared|starts`.

`steps`: one tuning step with the prompt after a cached input, against peft's prefix tuning.
`shared`: eight tasks tuned in one shared batch, against one after another.
`starts`: iterations and time to a target from the bank's choice, from the instruction, and cold.
CPU-seconds are of this process, so other processes disturb them little.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from maitre.bank.bank import PromptBank
from maitre.bank.index import build_index
from maitre.tuning.bank_entries import FEATURE, bank_entry, with_output_features
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig, TuneResult
from maitre.tuning.encoding import EncodedExample
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import InputCache
from maitre.tuning.soft_prompt import random_init, text_init
from maitre.tuning.start import find_start
from maitre.tuning.target import target_loss
from maitre.tuning.tasks import Task, load_tasks
from maitre.tuning.tune import tune, tune_many

REPEATS = 3


def steps(model: BaseModel, rows: int, virtual_tokens: int) -> None:
    """CPU-seconds of one step by input length: ours, and peft's prompt tuning on the same rows."""
    from peft import PromptTuningConfig, get_peft_model

    plain = BaseModel.load(Path(model.model.name_or_path), device="cpu", dtype=_dtype(model))
    plain.model.set_attn_implementation("sdpa")
    peft_model = get_peft_model(
        plain.model,
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens),
    )
    generator = np.random.default_rng(0)
    print(f"one step, {rows} rows, {virtual_tokens} virtual tokens, one-token answers (CPU-s)")
    for length in (32, 128, 512):
        examples = [
            EncodedExample(tuple(ids[:-1].tolist()), (int(ids[-1]),))
            for ids in generator.integers(3, 40_000, size=(rows, length + 1))
        ]
        cache = InputCache(model, examples, "suffix", 1 << 34, [range(rows)])
        with _cpu() as filling:
            cache.batch(range(rows))
        prompt = torch.from_numpy(random_init(model, virtual_tokens, 0)).requires_grad_()

        def ours(cache: InputCache = cache, prompt: torch.Tensor = prompt) -> None:
            batch = cache.batch(range(rows))
            losses, _ = answer_losses(model, prompt.expand(rows, -1, -1), batch, "suffix")
            torch.autograd.grad(losses.mean(), prompt)

        ids = torch.tensor([example.input_ids + example.answer_ids for example in examples])
        labels = torch.full_like(ids, -100)
        labels[:, -1] = ids[:, -1]

        def theirs(ids: torch.Tensor = ids, labels: torch.Tensor = labels) -> None:
            seen = torch.ones_like(ids)
            peft_model(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
            peft_model.zero_grad()

        ours_s, theirs_s = _median_cpu_s(ours), _median_cpu_s(theirs)
        print(
            f"  input {length:4d} tokens: ours {ours_s:.3f}, peft {theirs_s:.3f}, "
            f"{theirs_s / ours_s:.1f}x cheaper; filling the cache once {filling[0]:.3f}",
            flush=True,
        )


def shared(model: BaseModel, tasks: Sequence[Task], config: TuneConfig) -> None:
    """CPU-seconds of tuning tasks together and one after another."""
    for batch_size in (2, 4, 16):
        settings = replace(config, batch_size=batch_size, max_iterations=10, eval_every=None)
        settings = replace(settings, eval_rows=16)
        none = [None] * len(tasks)
        with _cpu() as together:
            tune_many(model, tasks, inits=none, config=settings, seeds=range(len(tasks)))
        with _cpu() as apart:
            for seed, task in enumerate(tasks):
                tune(model, task, init=None, config=settings, seed=seed)
        print(
            f"{len(tasks)} tasks, {batch_size} rows a step: shared {together[0]:.1f} CPU-s, "
            f"one after another {apart[0]:.1f} CPU-s, {apart[0] / together[0]:.2f}x",
            flush=True,
        )


@dataclass(frozen=True)
class Comparison:
    """One task and seed: runs to the target by start, and what the lookup cost."""

    task: str
    seed: int
    target: float
    choice: str
    lookup_s: float
    runs: dict[str, TuneResult]


def starts(
    model: BaseModel,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    seeds: Sequence[int],
    config: TuneConfig,
    *,
    bank_url: Path,
    bank_iterations: int,
    probe_iterations: int,
) -> None:
    """Iterations and CPU-seconds to a target fixed by a cold run of another seed."""
    bank = _bank(model, tasks, replace(config, max_iterations=bank_iterations), bank_url)
    found = []
    for task in held_out:
        others = bank.without(entry.entry_id for entry in bank if entry.task == task.name)
        index = build_index(others, FEATURE)
        reference = tune(model, task, init=None, config=config, seed=1000)
        if reference.eval_accuracy < task.majority_share() + 0.1:
            print(f"{task.name}: not learned by the reference run; left out", flush=True)
            continue
        to_target = replace(config, target_loss=target_loss(task, reference.curve))
        for seed in seeds:
            lookup = find_start(
                model,
                task,
                others,
                index,
                config=config,
                seed=seed,
                clock=time.process_time,
                probe_iterations=probe_iterations,
            )
            inits = {
                "bank": lookup.choice.prompt,
                "text": text_init(model, task.instruction or "", config.virtual_tokens),
                "cold": None,
            }
            runs = {
                name: tune(
                    model, task, init=init, config=to_target, seed=seed, clock=time.process_time
                )
                for name, init in inits.items()
            }
            one = Comparison(
                task.name,
                seed,
                to_target.target_loss or 0.0,
                lookup.choice.name,
                lookup.seconds,
                runs,
            )
            found.append(one)
            print(_line(one), flush=True)
    _summary(found, config)


def _line(one: Comparison) -> str:
    runs = ", ".join(
        f"{name} {run.iterations}{'' if run.reached else '+'} it {run.seconds:.1f} CPU-s"
        for name, run in one.runs.items()
    )
    return (
        f"{one.task} seed {one.seed}: target loss {one.target:.3f}, {runs}; "
        f"lookup {one.lookup_s:.1f} CPU-s chose {one.choice}"
    )


def _summary(found: Sequence[Comparison], config: TuneConfig) -> None:
    """Medians over tasks of the median over seeds, with bootstrap intervals over tasks."""
    tasks = sorted({one.task for one in found})

    def ratio(of: Callable[[Comparison], float]) -> str:
        by_task = [np.median([of(one) for one in found if one.task == task]) for task in tasks]
        generator = np.random.default_rng(0)
        draws = generator.choice(by_task, size=(2000, len(by_task)))
        low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
        return f"{np.median(by_task):.2f} (95 % interval {low:.2f} to {high:.2f})"

    def iterations(one: Comparison, name: str) -> float:
        return max(1, one.runs[name].iterations)

    print(f"\n{len(tasks)} tasks, {len(found)} runs of each start; a run that does not reach its")
    print(f"target within {config.max_iterations} iterations counts as {config.max_iterations}")
    print(
        "iterations, cold / bank:", ratio(lambda o: iterations(o, "cold") / iterations(o, "bank"))
    )
    print(
        "iterations, text / bank:", ratio(lambda o: iterations(o, "text") / iterations(o, "bank"))
    )
    print(
        "CPU time to target, cold / (lookup + bank):",
        ratio(lambda o: o.runs["cold"].seconds / (o.lookup_s + o.runs["bank"].seconds)),
    )
    for name in ("bank", "text", "cold"):
        reached = sum(one.runs[name].reached for one in found)
        print(f"reached from {name}: {reached} of {len(found)}")


def _bank(model: BaseModel, tasks: Sequence[Task], config: TuneConfig, url: Path) -> PromptBank:
    """The bank stored at `url`, made first for the tasks that it lacks."""
    bank = PromptBank.load(url, missing_ok=True)
    known = {entry.task for entry in bank}
    missing = [task for task in tasks if task.name not in known]
    quiet = replace(config, eval_every=None)
    for start in range(0, len(missing), 8):
        group = missing[start : start + 8]
        with _cpu() as spent:
            results = tune_many(
                model, group, inits=[None] * len(group), config=quiet, seeds=[1] * len(group)
            )
        print(
            f"bank: {start + len(group)} of {len(missing)} tasks, {spent[0]:.0f} CPU-s more",
            flush=True,
        )
        entries = [
            bank_entry(
                model,
                task,
                result.prompt,
                created_at=datetime.now(UTC),
                eval_loss=result.eval_loss,
                eval_accuracy=result.eval_accuracy,
            )
            for task, result in zip(group, results, strict=True)
        ]
        bank, _ = bank.add(entries)
        bank = with_output_features(bank, model)
        bank.save(url)
    return bank


@contextmanager
def _cpu() -> Iterator[list[float]]:
    """Yields a list that holds the CPU-seconds of the block once it is left."""
    spent: list[float] = []
    started_s = time.process_time()
    yield spent
    spent.append(time.process_time() - started_s)


def _median_cpu_s(step: Callable[[], None]) -> float:
    step()
    times = []
    for _ in range(REPEATS):
        with _cpu() as spent:
            step()
        times.append(spent[0])
    return float(np.median(times))


def _dtype(model: BaseModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bank", description=__doc__)
    parser.add_argument("what", choices=["steps", "shared", "starts"])
    parser.add_argument("--model", default=".maitre/models/smollm2-135m-instruct")
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--bank", type=Path, default=Path(".maitre/benchmarks/bank"))
    parser.add_argument("--held-out", type=int, default=12, help="tasks to tune")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--virtual-tokens", type=int, default=TuneConfig().virtual_tokens)
    parser.add_argument("--learning-rate", type=float, default=TuneConfig().learning_rate)
    parser.add_argument("--max-iterations", type=int, default=60)
    parser.add_argument("--bank-iterations", type=int, default=40)
    parser.add_argument("--probe-iterations", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = BaseModel.load(options.model, device="cpu")
    config = TuneConfig(
        virtual_tokens=options.virtual_tokens,
        learning_rate=options.learning_rate,
        max_iterations=options.max_iterations,
    )
    if options.what == "steps":
        steps(model, options.rows, options.virtual_tokens)
        return
    tasks = load_tasks(options.tasks)
    chosen = np.random.default_rng(0).permutation(len(tasks)).tolist()
    if options.what == "shared":
        shared(model, [tasks[index] for index in chosen[:8]], config)
        return
    starts(
        model,
        tasks,
        [tasks[index] for index in chosen[: options.held_out]],
        range(options.seeds),
        config,
        bank_url=options.bank,
        bank_iterations=options.bank_iterations,
        probe_iterations=options.probe_iterations,
    )


if __name__ == "__main__":
    main()
