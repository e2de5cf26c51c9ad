"""Every reader of users' data, with a good input of it."""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.plan import PlacementPlan
from maitre.scheduling import read_cluster, read_events, read_jobs
from maitre.scheduling.events import COLUMNS as EVENT_COLUMNS
from maitre.scheduling.jobs import COLUMNS as JOB_COLUMNS
from maitre.scheduling.workload import read_arrivals, read_ita
from maitre.serving.fleet.adapter_folder import AdapterFolder
from maitre.serving.fleet.fleet import read_fleet
from maitre.serving.metrics import parse_metrics
from maitre.serving.proxy.request_body import RefusedRequestError, parse_object
from maitre.serving.proxy.routes import read_routes
from maitre.settings import Settings
from maitre.tuning.export import export_prompt, import_prompt
from maitre.tuning.prompt_card import PromptCard, read_prompt, write_prompt
from maitre.tuning.tasks import Example, Task
from maitre.twin import ServerProfile
from maitre.twin.trace_file import read_trace
from maitre.workers.pool.registry import WorkerRegistry
from maitre.workers.scheduling.decision_log import Decision, read_tick, write_tick
from maitre.workers.scheduling.live_snapshot import live_snapshot
from tests.tiny_plans import tiny_plan

CLUSTER = """gpus: 4
gpu_price_per_hour: 2
models:
  small: {warm_up_s: 10, lookup_s: 2, resize_s: 1, iteration_s: {1: 0.5, 2: 0.3}}
"""
METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 1.0
vllm:kv_cache_usage_perc{model_name="m"} 0.25
vllm:lora_requests_info{running_lora_adapters="a,b",waiting_lora_adapters="c",max_lora="4"} 1.7e9
vllm:prompt_tokens_total{model_name="m"} 1200.0
vllm:generation_tokens_total{model_name="m"} 340.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="2000"} 1.0
"""
SETTINGS = "home: h\ntasks: t\nheld_back: [a, b]\nmin_warm_workers: 2\nwarm_pool: local\n"


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of input.

    `make` writes a good input into a folder and returns what `read` is given. One of the files with
    a name that matches `damaged` is damaged. `read` returns the number of rows that it has read,
    where each row of a table must be read, else None. A `refusals` error is an answer, too.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], int | None]
    damaged: str = "*"
    refusals: tuple[type[Exception], ...] = ()


def file_with(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Return a maker of one file."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a CSV table as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue()


def catalogue_frame() -> pd.DataFrame:
    """Return a catalogue of six adapters."""
    return pd.DataFrame(
        {
            "adapter": [f"a{i}" for i in range(6)],
            "base_model": "m",
            "rank": [8, 16, 8, 32, 8, 8],
            "rate_rps": np.linspace(0.1, 0.6, 6),
            "mean_input_tokens": 100.0,
            "mean_output_tokens": 50.0,
        }
    )


def parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as a Parquet file."""
    raw = io.BytesIO()
    frame.to_parquet(raw, index=False)
    return raw.getvalue()


def make_task(folder: Path) -> Path:
    """Write a task with texts."""
    rows = tuple(Example(f"question {i}", ("yes", "no")[i % 2]) for i in range(10))
    Task("t", "a task", "answer", "accuracy", "g", rows[:6], rows[6:]).save(folder / "task")
    return folder / "task"


def make_chat_task(folder: Path) -> Path:
    """Write a task with chats."""
    path = make_task(folder)
    chats = [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": f"question {i}"}]},
                {"role": "assistant", "content": ("yes", "no")[i % 2]},
            ]
        }
        for i in range(10)
    ]
    for name, part in (("train.jsonl", chats[:6]), ("eval.jsonl", chats[6:])):
        (path / name).write_text("".join(json.dumps(chat) + "\n" for chat in part))
    return path


def make_bank(folder: Path) -> Path:
    """Write a bank of four prompts."""
    generator = np.random.default_rng(0)
    entries = tuple(
        BankEntry(
            entry_id=name,
            prompt=generator.normal(size=(2, 6)).astype(np.float32),
            task=f"task-{name}",
            description="d",
            base_model="m",
            base_model_hash="m" * 64,
            tokenizer_hash="t" * 64,
            created_at=datetime(2026, 1, 2, tzinfo=UTC),
        )
        for name in "abcd"
    )
    PromptBank(entries).save(folder / "bank")
    return folder / "bank"


def make_exported(folder: Path) -> Path:
    """Write an exported prompt."""
    return export_prompt(
        np.ones((2, 6), dtype=np.float32),
        folder / "prompt",
        position="suffix",
        base_model="m",
        base_model_hash="m" * 64,
    )


def make_registered(folder: Path) -> Path:
    """Write the artefact of a registered prompt."""
    write_prompt(folder, PromptCard("t", "m", "m" * 64, "suffix"), np.ones((2, 6), np.float32))
    return folder


def make_adapter(folder: Path) -> Path:
    """Write an adapter in peft's format."""
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "m",
        "rank_pattern": {"q_proj": 4},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {"base_model.model.q_proj.lora_A.weight": np.zeros((8, 4), np.float32)}
    safetensors.numpy.save_file(weights, folder / "adapter_model.safetensors")
    return folder


def make_fleet(folder: Path) -> Path:
    """Write the list of local servers."""
    server = tiny_plan({"s": {"a": 1.0}}).servers[0]
    entry = {
        "name": "s",
        "base_model": "m",
        "url": "http://127.0.0.1:8000",
        "pid": 1,
        "log": "s.log",
        "config": vars(server.config),
    }
    (folder / "fleet.json").write_text(json.dumps([entry]))
    return folder


def make_tick(folder: Path) -> Path:
    """Write a decision of the scheduler."""
    cluster = read_cluster(file_with("cluster.yaml", CLUSTER)(folder))
    (folder / "cluster.yaml").unlink()
    seen = live_snapshot(1_900_000_000.0, cluster, [], [], {})
    return write_tick(folder, Decision(replace(seen, time_s=1.0), "maitre", (), ("nothing",)))


def make_registration(folder: Path) -> Path:
    """Write a worker's registration."""
    WorkerRegistry(str(folder)).add("w0", "http://127.0.0.1:1", "m", 1)
    return folder


def read_plan(path: Path) -> None:
    """Read a plan as `maitre deploy` does."""
    from maitre.cli.deploy import _read_plan

    _read_plan(path, unsafe=True)


def jobs_reader(folder: Path) -> Callable[[Path], int]:
    """Return a reader of job lists for a cluster in `folder`."""
    cluster = read_cluster(file_with("cluster.yaml", CLUSTER)(folder))
    return lambda path: len(read_jobs(path, cluster))


def readers(scratch: Path) -> tuple[Reader, ...]:
    """Return all readers; `scratch` is a folder for what they need beside their input."""
    jobs = [(f"j{i}", "small", i, i + 100, 20, 10, 18.5, 11) for i in range(6)]
    events = [(f"{i}.000", "worker_start", f"w{i}", "", "") for i in range(6)]
    routes: Mapping[str, Any] = {
        "servers": {"s": {"url": "http://127.0.0.1:8000", "base_model": "m"}},
        "adapters": {"a": {"s": 1.0}},
        "prompts": {},
    }
    plan: PlacementPlan = tiny_plan({"s": {"a": 1.0, "b": 0.5}, "t": {"b": 0.5}})
    profile = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct").model_dump_json()
    azure = table(
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        [(f"2023-11-16 18:15:4{i}.5", 100 + i, 10 + i) for i in range(6)],
    )
    burst = table(
        ("Timestamp", "Model", "Request tokens", "Response tokens"),
        [(i, "ChatGPT", 100 + i, 10 + i) for i in range(6)],
    )
    mooncake = "".join(
        json.dumps({"timestamp": i * 1000, "input_length": 50 + i, "output_length": 5}) + "\n"
        for i in range(6)
    )
    own = table(
        ("arrival_s", "adapter", "input_tokens", "output_tokens"),
        [(i / 2, f"a{i % 2}", 100, 10) for i in range(6)],
    )
    frame = catalogue_frame()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 1})

    def catalogue(path: Path) -> int:
        return len(AdapterCatalogue.read(path).names)

    def requests(path: Path) -> None:
        read_trace(path)

    return (
        Reader("task, texts", make_task, lambda p: _none(Task.load(p))),
        Reader("task, chats", make_chat_task, lambda p: _none(Task.load(p))),
        Reader(
            "catalogue, CSV", file_with("c.csv", catalogue_frame().to_csv(index=False)), catalogue
        ),
        Reader("catalogue, Parquet", file_with("c.parquet", parquet(frame)), catalogue),
        Reader("jobs", file_with("jobs.csv", table(JOB_COLUMNS, jobs)), jobs_reader(scratch)),
        Reader(
            "arrivals",
            file_with("a.csv", table(("submission_time", "id"), [(i, f"j{i}") for i in range(6)])),
            lambda p: len(read_arrivals(p)),
        ),
        Reader(
            "iterations to accuracy",
            file_with("i.csv", "iterations_cold,iterations_bank\n40,10\n30,20\n35,5\n"),
            lambda p: len(read_ita(p).pairs),
        ),
        Reader(
            "event log",
            file_with("events.csv", table(EVENT_COLUMNS, events)),
            lambda p: len(list(read_events(p))),
        ),
        Reader("cluster", file_with("cluster.yaml", CLUSTER), lambda p: _none(read_cluster(p))),
        Reader(
            "settings",
            file_with("maitre.yaml", SETTINGS),
            lambda p: _none(Settings.read(p, environment={})),
        ),
        Reader(
            "server profile", file_with("p.yaml", profile), lambda p: _none(ServerProfile.load(p))
        ),
        Reader("plan", file_with("plan.json", plan.to_json()), read_plan),
        Reader(
            "routes", file_with("routes.json", json.dumps(routes)), lambda p: _none(read_routes(p))
        ),
        Reader("local servers", make_fleet, lambda p: _none(read_fleet(p))),
        Reader("trace, Azure", file_with("t.csv", azure), requests),
        Reader("trace, BurstGPT", file_with("t.csv", burst), requests),
        Reader("trace, Mooncake", file_with("t.jsonl", mooncake), requests),
        Reader("trace, Maitre", file_with("t.csv", own), requests),
        Reader("adapter folder", make_adapter, lambda p: _none(AdapterFolder.read(p))),
        Reader("prompt bank", make_bank, lambda p: _none(PromptBank.load(p))),
        Reader("exported prompt", make_exported, lambda p: _none(import_prompt(p))),
        Reader("registered prompt", make_registered, lambda p: _none(read_prompt(p))),
        Reader("decision", make_tick, lambda p: _none(read_tick(p))),
        Reader(
            "worker registration",
            make_registration,
            lambda p: _none(WorkerRegistry(str(p)).workers()),
        ),
        Reader(
            "metrics",
            file_with("metrics.txt", METRICS),
            lambda p: _none(parse_metrics(p.read_bytes().decode(errors="replace"))),
        ),
        Reader(
            "request body",
            file_with("body.json", body),
            lambda p: _none(parse_object(p.read_bytes())),
            refusals=(RefusedRequestError,),
        ),
    )


def _none(_: object) -> None:
    return None


def rows_of(path: Path) -> int | None:
    """Return the number of rows of a CSV file for the csv module; None where it reads none."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error):
        return None
    return len([row for row in rows if len(row) > 1 or (row and row[0].strip())]) - 1


def seeded(name: str, seed: int) -> random.Random:
    """Return a generator that depends on the reader's name and the seed alone."""
    return random.Random(f"{name} {seed}")
