"""A hub id is used as a folder is: its snapshot in the hub's cache, by its revision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from maitre.errors import UserError
from maitre.settings import Settings
from maitre.tuning.base_model import BaseModel
from maitre.tuning.loaded_model import model_fingerprint
from maitre.tuning.model_folder import HubId, model_folder
from maitre.tuning.tasks import Task
from tests.tuning.conftest import write_tiny_model

MAIN, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two revisions of one model, and no connection."""
    cache = tmp_path / "hf" / "hub"
    model = cache / "models--org--tiny"
    write_tiny_model(model / "snapshots" / MAIN, seed=0)
    write_tiny_model(model / "snapshots" / OTHER, seed=1)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(MAIN)
    (model / "refs" / "v2").write_text(OTHER)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize(
    ("text", "hub_id"),
    [
        ("org/name", HubId("org/name")),
        ("gpt2", HubId("gpt2")),
        ("org/name@v1.0", HubId("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("./name", None),
        ("../org/name", None),
        ("a/b/c", None),
        ("org/name@", None),
        ("", None),
    ],
)
def test_a_hub_id_is_recognised(text: str, hub_id: HubId | None) -> None:
    assert HubId.parse(text) == hub_id


def test_revisions_are_found_in_the_cache(hub: Path) -> None:
    snapshots = hub / "models--org--tiny" / "snapshots"
    assert model_folder("org/tiny") == snapshots / MAIN
    assert model_folder("org/tiny@v2") == snapshots / OTHER
    assert model_folder(f"org/tiny@{OTHER}") == snapshots / OTHER


def test_a_hub_model_has_the_fingerprint_of_its_weights(hub: Path) -> None:
    snapshot = hub / "models--org--tiny" / "snapshots" / MAIN
    model = BaseModel.load("org/tiny", device="cpu", dtype="float32")
    assert model.name == "org/tiny"
    assert model.hash == BaseModel.load(snapshot, device="cpu", dtype="float32").hash
    assert model_fingerprint("org/tiny") == model_fingerprint(str(snapshot)) == model.hash[:16]
    assert model_fingerprint("org/tiny@v2") != model.hash[:16]


@pytest.mark.parametrize("missing", ["org/absent", "org/tiny@v3"])
def test_what_is_not_cached_is_one_error_that_says_what_to_do(hub: Path, missing: str) -> None:
    with pytest.raises(UserError, match=f"{missing}: not in the hub's cache.*fetch it once"):
        model_folder(missing)


@pytest.mark.parametrize(
    ("base_model", "name"),
    [
        ("org/tiny", "tiny"),
        ("org/tiny@v2", "tiny"),
        ("/models/a@b", "a@b"),
        ("models/tiny", "tiny"),
    ],
)
def test_the_pools_name_has_no_revision(base_model: str, name: str) -> None:
    assert Settings(base_model=base_model).base_model_name == name


@pytest.mark.slow
def test_a_hub_model_is_tuned_and_has_its_bank_without_a_connection(
    hub: Path, tmp_path: Path, colours: Task
) -> None:
    colours.save(tmp_path / "tasks" / "colours")
    environment = {
        **os.environ,
        "HF_HOME": str(hub.parent),
        "HF_HUB_OFFLINE": "1",
        "MAITRE_HOME": str(tmp_path / "home"),
        "MAITRE_TASKS": str(tmp_path / "tasks"),
        "MAITRE_BASE_MODEL": "org/tiny",
    }

    def call(*arguments: str) -> dict:
        command = [sys.executable, "-m", "maitre.cli", *arguments, "--json"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    entry = call("bank", "add", "--task", "t2", "--description", "d", "--text", "big house")
    report = call(
        "tune", "colours", "--local", "--init", entry["entry_id"], "--max-iterations", "2"
    )
    assert report["entry"] == entry["entry_id"]
