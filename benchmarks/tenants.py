"""Attempts of one tenant to reach what is another's, at every interface; none may succeed.

Tenant `acme` tunes a task on a tiny model; then
`rival` and the default tenant try to read, use, change and name what came of it. At last acme does
the same, and must succeed: an attempt that always fails would show nothing.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import safetensors.numpy
from click.testing import Result
from typer.testing import CliRunner

import maitre.tuning.start
from assets.tuning.tuned_prompts import TASKS_NAME, tuned_prompts
from benchmarks.report import Figure, Reach, Report
from maitre.cli.main import app
from maitre.settings import Settings
from maitre.tenants import DEFAULT_TENANT, TENANT_TAG
from resources.wiring import resources
from tests.halves import TUNING
from tests.tiny_inputs import write_model, write_tasks

NONE = Reach(0, 0)
OWNER, RIVALS = "acme", ("rival", DEFAULT_TENANT)
TASK, KEY = "first", "nightly"
TUNE = ("tune", TASK, "--local", "--max-iterations", "1", "--batch-size", "2", "--init")
CONFIG = {"max_iterations": 2, "batch_size": 4, "virtual_tokens": 4, "target_loss": 0.0}


@dataclass(frozen=True)
class Outcome:
    """What a tenant's own run of the task saw and made."""

    candidates: frozenset[str]
    registered: str


@dataclass
class Scene:
    """What acme has: a request that ended, one that waits, a prompt in bank, registry and file."""

    folder: Path
    settings: Settings
    instance: dg.DagsterInstance
    waiting: str = ""
    cancelled: str = ""
    entry: str = ""
    version: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def exported(self) -> Path:
        """The prompt's folder, written for acme."""
        return self.folder / "exported"

    @property
    def copied(self) -> Path:
        """A file with the values of acme's prompt that does not say whose they are."""
        return self.folder / "copied.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of a local tuning of acme."""
        return self.folder / "checkpoint.safetensors"

    def call(self, *arguments: str) -> Result:
        """Run a command of `maitre` with this scene's settings."""
        return CliRunner().invoke(app, arguments, env=self.settings.environment())

    def read(self, *arguments: str) -> Any:
        """Return what a command that succeeds prints as JSON."""
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return json.loads(result.stdout)

    def succeeds(self, *arguments: str) -> bool:
        """Return whether a command succeeds; it must not fail by a defect."""
        result = self.call(*arguments)
        if result.exception is not None and not isinstance(
            result.exception, (SystemExit, ValueError)
        ):
            raise result.exception
        return result.exit_code == 0

    def outcome(self, tenant: str) -> Outcome:
        """Tune the task for a tenant as its request would, once."""
        if tenant not in self.outcomes:
            self.outcomes[tenant] = self._tune(tenant)
        return self.outcomes[tenant]

    def _tune(self, tenant: str) -> Outcome:
        seen: set[str] = set()
        look_up = maitre.tuning.start.lookup

        def watched(bank: Any, *arguments: Any, **options: Any) -> Any:
            seen.update(entry.entry_id for entry in bank)
            return look_up(bank, *arguments, **options)

        with mock.patch.object(maitre.tuning.start, "lookup", watched):
            made = dg.materialize(
                TUNING,
                selection=[tuned_prompts],
                instance=self.instance,
                resources=resources(self.settings),
                partition_key=TASK,
                tags={TENANT_TAG: tenant},
                run_config={"ops": {"tuned_prompts": {"config": CONFIG}}},
            )
        [event] = made.asset_materializations_for_node("tuned_prompts")
        url = str(event.metadata["model_version"].value)
        return Outcome(frozenset(seen), url.split("/models/")[1].split("/versions/")[0])


def prepare(folder: Path, instance: dg.DagsterInstance) -> Scene:
    """Let acme tune the task, and leave a request of it in the queue."""
    settings = Settings(
        home=str(folder / "home"),
        base_model=str(write_model(folder / "model")),
        tasks=str(write_tasks(folder / "tasks", (TASK,))),
        request_queue_url=f"sqlite:///{folder}/home/requests.db",
        mlflow_tracking_uri=f"sqlite:///{folder}/home/mlflow/mlflow.db",
        cluster=str(folder / "no-cluster.yaml"),
    )
    scene = Scene(folder, settings, instance)
    instance.add_dynamic_partitions(TASKS_NAME, [TASK])
    submit = ("tune", TASK, "--tenant", OWNER)
    scene.waiting = scene.read(*submit, "--key", KEY)["request_id"]
    scene.cancelled = scene.read(*submit)["request_id"]
    scene.read("requests", "cancel", scene.cancelled, "--tenant", OWNER)
    scene.version = f"models:/{scene.outcome(OWNER).registered}/1"
    scene.outcomes.clear()
    [entry] = scene.read("bank", "list", "--tenant", OWNER)
    scene.entry = entry["entry_id"]
    scene.read("bank", "export", scene.entry, str(scene.exported), "--tenant", OWNER)
    values = safetensors.numpy.load_file(scene.exported / "soft_prompt.safetensors")
    safetensors.numpy.save_file(values, scene.copied)
    scene.read(*TUNE, "random", "--checkpoint", str(scene.checkpoint), "--tenant", OWNER)
    return scene


def _lists(scene: Scene, tenant: str) -> bool:
    return scene.entry in json.dumps(scene.read("bank", "list", "--tenant", tenant))


def _exports(scene: Scene, tenant: str) -> bool:
    out = scene.folder / f"out-{tenant}"
    written = scene.succeeds("bank", "export", scene.entry, str(out), "--tenant", tenant)
    return written or out.exists()


def _counts(scene: Scene, tenant: str) -> bool:
    figures = scene.read("bank", "stats", "--tenant", tenant)
    return bool(figures["entries"] or figures["hit_rate"] is not None or figures["uses"])


def _searches(scene: Scene, tenant: str) -> bool:
    found = scene.read("bank", "search", TASK, "--exhaustive", "--tenant", tenant)
    return scene.entry in json.dumps(found)


def _adds_exported(scene: Scene, tenant: str) -> bool:
    fields = ("--task", "other", "--description", "d", "--prompt", str(scene.exported))
    added = scene.call("bank", "add", *fields, "--tenant", tenant)
    # Its owner may add it, and is told that the bank has it.
    return added.exit_code == 0 or "near duplicate" in str(added.exception)


def _learns_of_duplicate(scene: Scene, tenant: str) -> bool:
    fields = ("--task", "other", "--description", "d", "--prompt", str(scene.copied))
    url = str(scene.folder / f"bank-{tenant}")
    [stored] = (Path(scene.settings.home) / "bank").iterdir()
    if not Path(url).exists():
        # A bank of its own, so that what is added here does not join the other attempts' bank.

        shutil.copytree(stored, url)
    added = scene.call("bank", "add", *fields, "--bank", url, "--tenant", tenant)
    return "near duplicate" in str(added.exception)


def _starts_from_entry(scene: Scene, tenant: str) -> bool:
    return scene.succeeds(*TUNE, scene.entry, "--tenant", tenant)


def _resumes(scene: Scene, tenant: str) -> bool:
    options = ("random", "--checkpoint", str(scene.checkpoint), "--tenant", tenant)
    return scene.succeeds(*TUNE, *options)


def _lists_requests(scene: Scene, tenant: str) -> bool:
    return scene.waiting in json.dumps(scene.read("requests", "list", "--tenant", tenant))


def _shows_request(scene: Scene, tenant: str) -> bool:
    return scene.succeeds("requests", "show", scene.waiting, "--tenant", tenant)


def _retries(scene: Scene, tenant: str) -> bool:
    return scene.succeeds("requests", "retry", scene.cancelled, "--tenant", tenant)


def _cancels(scene: Scene, tenant: str) -> bool:
    return scene.succeeds("requests", "cancel", scene.waiting, "--tenant", tenant)


def _uses_key(scene: Scene, tenant: str) -> bool:
    made = scene.read("tune", TASK, "--key", KEY, "--tenant", tenant)
    return bool(made["request_id"] == scene.waiting)


def _is_offered(scene: Scene, tenant: str) -> bool:
    return scene.entry in scene.outcome(tenant).candidates


def _registers_over(scene: Scene, tenant: str) -> bool:
    return scene.outcome(tenant).registered == scene.version.split("/")[1]


def _serves(scene: Scene, tenant: str, prompt: str) -> bool:
    with ExitStack() as patched:
        patched.enter_context(mock.patch("uvicorn.run"))
        model = f"--model=tiny={scene.settings.base_model}"
        folder = f"--folder={scene.folder / f'serving-{tenant}'}"
        return scene.succeeds(
            "deploy", "proxy", folder, model, f"--prompt=p={prompt}", "--tenant", tenant
        )


def _serves_version(scene: Scene, tenant: str) -> bool:
    return _serves(scene, tenant, scene.version)


def _serves_folder(scene: Scene, tenant: str) -> bool:
    return _serves(scene, tenant, str(scene.exported))


ATTEMPTS: Mapping[str, Callable[[Scene, str], bool]] = {
    "maitre bank list": _lists,
    "maitre bank export": _exports,
    "maitre bank stats": _counts,
    "maitre bank search": _searches,
    "maitre bank add, an exported prompt": _adds_exported,
    "maitre bank add, near duplicates": _learns_of_duplicate,
    "maitre tune --local --init ENTRY": _starts_from_entry,
    "maitre tune --local --checkpoint": _resumes,
    "maitre tune --key": _uses_key,
    "maitre requests list": _lists_requests,
    "maitre requests show": _shows_request,
    "maitre requests retry": _retries,
    "maitre requests cancel": _cancels,
    "lookup of a request's run": _is_offered,
    "MLflow model registry, names": _registers_over,
    "maitre deploy proxy, a registered version": _serves_version,
    "maitre deploy proxy, an exported prompt": _serves_folder,
}
"""Whether a tenant reaches what is acme's, by interface."""


def add_options(parser: argparse.ArgumentParser) -> None:
    del parser


def measure(options: argparse.Namespace) -> Report:
    """Make every attempt in a temporary folder."""
    del options
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.ephemeral() as instance:
        scene = prepare(Path(folder), instance)
        by_interface = {
            name: {tenant: attempt(scene, tenant) for tenant in (*RIVALS, OWNER)}
            for name, attempt in ATTEMPTS.items()
        }
    owner_failed = sum(not made[OWNER] for made in by_interface.values())
    return Report(
        [
            *(
                Figure(
                    f"{name}: other tenants that succeed",
                    sum(made[tenant] for tenant in RIVALS),
                    f"of {len(RIVALS)}",
                    NONE,
                )
                for name, made in by_interface.items()
            ),
            Figure("attempts by another tenant", len(ATTEMPTS) * len(RIVALS)),
            Figure("attempts at which the owner fails", owner_failed, "", NONE),
        ],
        {"by_interface": by_interface},
    )
