"""Every figure on scheduling that the documentation quotes.

`--part main`: all policies, baselines with the best parameters of the sweep, on windows of the
shared arrival traces that no parameter was chosen on, three loads, several seeds; violations, cost,
and cost against the clairvoyant bound. `sweep`: the parameters of every policy on the development
windows. `ablation`: maitre without single ideas, on those too. `decision`, `scale`: seconds.
With `--results` every run is noted there, and a run of the same code is not repeated: a benchmark
that was cut off goes on where it was.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Figure, Report, progress
from maitre.scheduling.bound import clairvoyant_bound
from maitre.scheduling.cluster import Cluster, read_cluster
from maitre.scheduling.jobs import Job
from maitre.scheduling.outcome import Outcome
from maitre.scheduling.policies import named_policy
from maitre.scheduling.replay import replay
from maitre.scheduling.simulator import simulate
from maitre.scheduling.snapshot import JobView, Pool, RunningJob, Snapshot, Worker
from maitre.scheduling.workload import (
    LOADS,
    ItaDistribution,
    WorkloadOptions,
    generate,
    read_arrivals,
    read_ita,
    window,
)

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MAITRE_SHARED_DATA", ROOT.parent / "shared" / "data"))
TRACES = SHARED / "tuning-job-traces"

# (trace, first day): parameters were chosen on the first list only; one day each.
DEVELOPMENT = (("02", 0), ("02", 14), ("02", 37), ("08", 2), ("08", 9), ("08", 30))
HELD_OUT = (("02", 7), ("02", 27), ("02", 43), ("08", 5), ("08", 12), ("08", 36))

# The best of the sweep; see docs/scheduling.md. `elasticflow+` is kinder than the system: a job
# that starts or changes uses workers that hold its model as they are.
BEST: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "infless": ("infless", {"keep_alive_cap_s": 5.0}),
    "elasticflow": ("elasticflow", {"slots": 120}),
    "elasticflow+": ("elasticflow", {"slots": 120, "reinitialise": False}),
    "prompttuner": ("prompttuner", {"idle_window_s": 40.0, "lookup_budget": 0.4}),
    "maitre": ("maitre", {}),
}

SWEEP: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "infless": tuple({"keep_alive_cap_s": float(s)} for s in (5, 15, 30, 60, 120)),
    "elasticflow": (
        *({"slots": slots} for slots in (30, 60, 120, 240)),
        *({"slots": 120, "cluster_share": share} for share in (0.25, 0.5, 0.75)),
        *({"slots": 120, "rescale_gain": gain} for gain in (1.0, 4.0)),
        {"slots": 120, "reinitialise": False},
    ),
    "prompttuner": (
        *({"idle_window_s": float(s)} for s in (5, 10, 20, 40, 60)),
        *({"idle_window_s": float(s), "lookup_budget": 0.4} for s in (5, 20, 40)),
        {"idle_window_s": 40.0, "lookup_budget": 0.1},
        *({"idle_window_s": 40.0, "overdue_fraction": f} for f in (0.0, 0.3)),
    ),
    "maitre": (
        {},
        *({"finish_quantile": q} for q in (0.75, 0.85, 0.93)),
        *({"release_quantile": q} for q in (0.5, 0.9)),
        *({"rescue_quantile": q} for q in (0.5, 0.85)),
        *({"warmth": w} for w in (0.0, 0.2, 1.0, 2.0)),
        *({"usable_share": u} for u in (0.7, 1.0)),
        *({"crowded_dearest": d} for d in (1.0, 1.5, 100.0)),
        {"reject_hopeless": True},
    ),
}

ABLATION = (
    {},
    {"preempt": False},
    {"lookup": False},
    {"lookup_ahead": False},
    {"rescue_quantile": 0.0},
)


class Workloads:
    """The job lists of windows x loads x seeds, made on demand from the shared traces."""

    def __init__(self, results: Path | None = None, ita: Path | None = None) -> None:
        self.results = results
        self.ita = read_ita(ita) if ita else ItaDistribution()
        self.known: dict[str, Any] = {}
        if results is not None and results.exists():
            for line in results.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.known[entry["key"]] = entry["value"]
        self.code = f"{code_digest()} {ita.resolve() if ita else ''}"
        self.cluster = read_cluster(ROOT / "examples" / "cluster.yaml")
        self.traces = {
            name: read_arrivals(TRACES / f"itp-cluster{name}.csv") for name in ("02", "08")
        }

    def jobs(self, name: str, day: int, load: str, seed: int) -> tuple[Job, ...]:
        """Return one day of a trace from `day`, at the named load."""
        arrivals = window(self.traces[name], day, 1.0)
        return generate(
            arrivals, self.cluster, WorkloadOptions(load=LOADS[load], ita=self.ita), seed
        )

    def note(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, from the results file where it has been made before."""
        key = f"{self.code} {key}"
        if key not in self.known:
            self.known[key] = make()
            if self.results is not None:
                with self.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
        return self.known[key]

    def outcome(
        self, where: tuple[str, int, str, int], policy: str, given: Mapping[str, Any]
    ) -> Outcome:
        """Run once and replay the log; figures of a log that breaks the contract are not stored."""
        return Outcome(
            **self.note(
                f"{where} {policy} {sorted(given.items())}",
                lambda: asdict(run(self.jobs(*where), self.cluster, policy, given)),
            )
        )

    def bound(self, where: tuple[str, int, str, int], violations: int) -> float:
        """Return the clairvoyant bound in GPU-hours."""
        return float(
            self.note(
                f"{where} bound {violations}",
                lambda: clairvoyant_bound(self.jobs(*where), self.cluster, violations),
            )
        )


def code_digest() -> str:
    """Return the digest of everything that a stored figure depends on, but for the traces."""
    digest = hashlib.sha256((ROOT / "examples" / "cluster.yaml").read_bytes())
    for path in sorted((ROOT / "maitre" / "scheduling").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def run(jobs: tuple[Job, ...], cluster: Cluster, policy: str, given: Mapping[str, Any]) -> Outcome:
    result = simulate(jobs, cluster, named_policy(policy, **given))
    seen = replay(result.events, jobs, cluster)
    if seen.problems or seen.violations != result.outcome.violations:
        raise RuntimeError(f"{policy}: {seen.problems[:3]}")
    return result.outcome


def main_part(workloads: Workloads, seeds: int, loads: Iterable[str]) -> list[Figure]:
    """Return the figures on the held-out windows."""
    return [figure for load in loads for figure in one_load(workloads, load, seeds)]


def one_load(workloads: Workloads, load: str, seeds: int) -> list[Figure]:
    results: dict[str, list[Outcome]] = {policy: [] for policy in BEST}
    bounds: list[float] = []
    strict: list[float] = []
    for name, day in HELD_OUT:
        for seed in range(seeds):
            where = (name, day, load, seed)
            for label, (policy, given) in BEST.items():
                results[label].append(workloads.outcome(where, policy, given))
            ours = results["maitre"][-1]
            bounds.append(ours.gpu_hours / workloads.bound(where, ours.violations))
            strict.append(ours.gpu_hours / workloads.bound(where, 0))
            progress(f"load {load}: trace {name}, day {day}, seed {seed}")
    case = f"load {load}"
    figures = []
    for policy, outcomes in results.items():
        rates = [100 * outcome.violation_rate for outcome in outcomes]
        hours = [outcome.gpu_hours for outcome in outcomes]
        missed = sum(outcome.violations for outcome in outcomes)
        jobs = sum(outcome.jobs for outcome in outcomes)
        figures += [
            Figure(f"{case}, {policy}: violations, all {len(outcomes)} runs", missed, f"of {jobs}"),
            *_median_and_worst(f"{case}, {policy}: violations per run", rates, "%", max(rates)),
            *_median_and_worst(f"{case}, {policy}: cost per run", hours, "GPU-h", max(hours)),
        ]
    ours_all = results["maitre"]
    total = sum(outcome.violations for outcome in ours_all)
    for policy in [label for label in BEST if label != "maitre"]:
        ratios = [t.cost / o.cost for t, o in zip(results[policy], ours_all, strict=True)]
        times = sum(outcome.violations for outcome in results[policy]) / max(1, total)
        figures += [
            Figure(f"{case}, {policy} / maitre: violations, all runs", times),
            *_median_and_worst(f"{case}, {policy} / maitre: cost", ratios, "", min(ratios)),
        ]
    bound = f"{case}, maitre / bound"
    return [
        *figures,
        *_median_and_worst(f"{bound} of equal violations: cost", bounds, "", max(bounds)),
        *_median_and_worst(f"{bound} of no violation: cost", strict, "", max(strict)),
    ]


def _median_and_worst(name: str, values: list[float], unit: str, worst: float) -> list[Figure]:
    return [
        Figure(f"{name}, median", statistics.median(values), unit),
        Figure(f"{name}, worst", worst, unit),
    ]


def settings_part(
    workloads: Workloads, title: str, choices: Mapping[str, Iterable[Mapping[str, Any]]]
) -> list[Figure]:
    """Return the figures of policies with other parameters, on the development windows."""
    figures = []
    for policy, given in ((name, given) for name in choices for given in choices[name]):
        text = ", ".join(f"{key}={value}" for key, value in given.items()) or "as shipped"
        violations, hours = 0, 0.0
        for load in LOADS:
            outcomes = [
                workloads.outcome((name, day, load, 0), policy, given) for name, day in DEVELOPMENT
            ]
            count = sum(outcome.violations for outcome in outcomes)
            spent = sum(outcome.gpu_hours for outcome in outcomes)
            figures += _violations_and_cost(f"{title}, {policy}, {text}: load {load}", count, spent)
            violations, hours = violations + count, hours + spent
        figures += _violations_and_cost(f"{title}, {policy}, {text}: all", violations, hours)
        progress(f"{title}, {policy}, {text}: {violations} / {hours:.1f}")
    return figures


def _violations_and_cost(name: str, violations: int, gpu_hours: float) -> list[Figure]:
    return [
        Figure(f"{name}, violations", violations),
        Figure(f"{name}, cost", gpu_hours, "GPU-h"),
    ]


def large_snapshot(queued: int = 10_000, running: int = 1_000) -> Snapshot:
    """Return a cluster with every GPU busy and a long queue, deadlines some minutes away."""
    cluster = replace(read_cluster(ROOT / "examples" / "cluster.yaml"), gpus=running)
    generator = np.random.default_rng(0)
    names = list(cluster.models)
    pools = {name: Pool(cluster.models[name], {}, {}, {}, {}, {}, [], []) for name in names}
    queues: dict[str, dict[str, JobView]] = {name: {} for name in names}
    runs: dict[str, dict[str, RunningJob]] = {name: {} for name in names}
    workers: dict[str, dict[str, Worker]] = {name: {} for name in names}
    for index in range(queued + running):
        model = cluster.models[names[index % len(names)]]
        cold = float(generator.integers(100, 1500))
        deadline_s = 1000.0 + float(generator.uniform(10, 900))
        job = JobView(f"j{index}", model.name, 900.0, deadline_s, cold, 0.4 * cold)
        count = model.worker_counts[0]
        held = sum(len(pool) for pool in workers.values())
        if held + count <= running:
            ids = tuple(f"w{held + offset}" for offset in range(count))
            for worker in ids:
                workers[model.name][worker] = Worker(worker, model.name, "running", 950.0, 900.0)
            started = replace(job, started=True)
            runs[model.name][job.job_id] = RunningJob(started, ids, 950.0, model.iteration_s[count])
        else:
            queues[model.name][job.job_id] = job
    for name in names:
        pools[name] = replace(
            pools[name], queued=queues[name], running=runs[name], workers=workers[name]
        )
    held = sum(len(pool) for pool in workers.values())
    return Snapshot(1000.0, cluster, pools, {}, held, frozenset(names))


def decision_part() -> list[Figure]:
    """Return the time of one decision, with 10,000 jobs queued and 1,000 GPUs busy."""
    snapshot = large_snapshot()
    figures = []
    for policy in ("infless", "prompttuner", "maitre"):
        chosen = named_policy(policy)
        spent = []
        for _ in range(7):
            start = time.process_time()
            chosen.decide(snapshot)
            spent.append(1000 * (time.process_time() - start))
        name = f"decision, 10,000 queued, 1,000 GPUs busy, {policy}: median of 7"
        figures.append(Figure(name, statistics.median(spent), "CPU-ms"))
    return figures


def scale_part(workloads: Workloads, count: int = 100_000) -> list[Figure]:
    """Return the figures of 100,000 jobs on 1,000 GPUs: shifted copies of one trace, load high."""
    base = workloads.traces["08"] - workloads.traces["08"][0]
    generator = np.random.default_rng(0)
    copies = [
        (base + generator.uniform(0, base[-1])) % base[-1] for _ in range(count // len(base) + 1)
    ]
    arrivals = np.sort(np.concatenate(copies))[:count]
    cluster = replace(workloads.cluster, gpus=1000)
    jobs = generate(arrivals, cluster, WorkloadOptions(load=LOADS["high"]), 0)
    figures = []
    for policy in ("infless", "prompttuner", "maitre"):
        start = time.process_time()
        outcome = simulate(jobs, cluster, named_policy(policy, **BEST[policy][1])).outcome
        spent = time.process_time() - start
        name = f"{count:,} jobs, 1,000 GPUs, {policy}"
        figures += [
            Figure(f"{name}: simulation", spent, "CPU-s"),
            *_violations_and_cost(name, outcome.violations, outcome.gpu_hours),
        ]
        progress(f"{name}: {spent:.1f} CPU-s")
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    parts = ("main", "sweep", "ablation", "decision", "scale", "all")
    parser.add_argument("--part", choices=parts, default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--load", choices=tuple(LOADS), help="of `main`; all by default")
    parser.add_argument("--results", type=Path, help="note runs here, and do not repeat them")
    parser.add_argument("--ita", type=Path, help="measured iterations_cold,iterations_bank, CSV")


def measure(options: argparse.Namespace) -> Report:
    if options.part == "decision":
        return Report(decision_part())
    workloads = Workloads(options.results, options.ita)
    loads = [options.load] if options.load else list(LOADS)
    parts: dict[str, Callable[[], list[Figure]]] = {
        "sweep": lambda: settings_part(workloads, "sweep", SWEEP),
        "ablation": lambda: settings_part(workloads, "ablation", {"maitre": ABLATION}),
        "main": lambda: main_part(workloads, options.seeds, loads),
        "decision": decision_part,
        "scale": lambda: scale_part(workloads),
    }
    chosen = list(parts) if options.part == "all" else [options.part]
    details = {"held_out": HELD_OUT, "development": DEVELOPMENT, "seeds": options.seeds}
    return Report([figure for name in chosen for figure in parts[name]()], details)
