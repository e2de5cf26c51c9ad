"""A second reading of the event log's contract, from the text of the design alone.

It shares no code with the package: it reads the three files' rows and raises `AssertionError` at
the first rule that a row breaks. Times are whole milliseconds; work is exact to 2 ms.
"""

import csv
import re
from pathlib import Path

import yaml

SLACK_MS = 2


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def check(events: Path, jobs: Path, cluster: Path) -> tuple[int, float]:
    """(violations, GPU-hours) of a log that keeps every rule."""
    described = yaml.safe_load(cluster.read_text(encoding="utf-8"))
    models = described["models"]
    todo = {row["job_id"]: row for row in csv.DictReader(_lines(jobs))}
    workers: dict[str, dict] = {}
    state: dict[str, dict] = {
        name: {"on": [], "done": 0.0, "looked": False, "started": False, "preempted": False}
        for name in todo
    }
    ended: dict[str, int | None] = {}
    held_ms = now = 0
    rows = list(csv.reader(_lines(events)))
    assert rows[0] == ["time_s", "event", "worker", "job_id", "base_model"]
    for time_s, event, ids, job_id, base_model in rows[1:]:
        assert re.fullmatch(r"\d+\.\d{3}", time_s), "times to 1 ms"
        at = int(time_s.replace(".", ""))
        assert at >= now, "in time order"
        now = at
        names = ids.split(";") if ids else []
        assert len(set(names)) == len(names)
        if event.startswith("worker_"):
            (name,) = names
            assert not job_id
            if event == "worker_start":
                assert name not in workers
                workers[name] = {"from": now, "model": None, "ready_at": None, "busy": None}
                assert len(workers) <= described["gpus"], "never more than gpus"
                continue
            worker = workers[name]
            assert worker["busy"] is None, f"{event} of a busy worker"
            if event == "worker_load":
                warm_up_ms = models[base_model]["warm_up_s"] * 1000
                worker.update(model=base_model, ready=False, ready_at=now + warm_up_ms)
            elif event == "worker_ready":
                assert abs(worker["ready_at"] - now) <= SLACK_MS, "warm_up_s after the load"
                worker.update(ready=True, ready_at=None)
            else:
                assert event == "worker_stop"
                held_ms += now - workers.pop(name)["from"]
            continue
        job, row = state[job_id], todo[job_id]
        model = models[row["base_model"]]
        assert job_id not in ended, "nothing after the end of a job"
        assert base_model == row["base_model"]
        assert now >= float(row["submitted_s"]) * 1000 - SLACK_MS
        if event == "lookup_end":
            assert names == job["lookup"]
            assert abs(now - job["lookup_ms"] - model["lookup_s"] * 1000) <= SLACK_MS
            job["looked"] = job["looked"] or not job["started"]
            workers[names[0]]["busy"] = None
            del job["lookup"]
            continue
        assert "lookup" not in job, "no other event of a job during its lookup"
        if event in ("job_resize", "job_preempt", "job_finish"):
            assert job["on"], f"{event} of a job that is not running"
            iteration_ms = model["iteration_s"][len(job["on"])] * 1000
            job["done"] += max(0.0, now - job["progress_ms"]) / iteration_ms
            need = float(row["iterations_bank" if job["looked"] else "iterations_cold"])
            assert (job["done"] - need) * iteration_ms <= SLACK_MS, "finishes when it is done"
            for name in job["on"]:
                workers[name]["busy"] = None
            if event != "job_resize":
                assert sorted(names) == sorted(job["on"])
            if event == "job_finish":
                assert (need - job["done"]) * iteration_ms <= SLACK_MS, "its iterations are done"
                ended[job_id] = now
            job["on"] = []
            job["preempted"] = event == "job_preempt"
        if event == "job_reject":
            assert not job["on"]
            assert not names
            ended[job_id] = None
        if event in ("lookup_start", "job_start", "job_resize"):
            assert event == "job_resize" or not job["on"]
            for name in names:
                assert workers[name]["model"] == row["base_model"]
                assert workers[name]["ready"], "ready"
                assert workers[name]["busy"] is None, "free"
                workers[name]["busy"] = job_id
            if event == "lookup_start":
                assert len(names) == 1
                job.update(lookup=names, lookup_ms=now)
            else:
                assert len(names) in model["iteration_s"]
                pays = event == "job_resize" or job["preempted"]
                job["progress_ms"] = now + (model["resize_s"] * 1000 if pays else 0)
                job.update(on=names, started=True, preempted=False)
    assert not workers, "every worker is stopped"
    missed = sum(
        ended.get(name) is None or ended[name] > float(row["deadline_s"]) * 1000 + 1e-6
        for name, row in todo.items()
    )
    return missed, held_ms / 3_600_000
