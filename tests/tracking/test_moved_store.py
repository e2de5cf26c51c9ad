"""A data home that was moved or copied gives its artefacts, and stores new ones beside them."""

import shutil
from pathlib import Path

import pytest

from maitre.tracking.moved_store import follow_moved_artifacts
from maitre.tracking.store import RegisteredVersion, TrackingStore
from tests.tracking.test_store import in_run, register


def store_in(home: Path) -> TrackingStore:
    return TrackingStore(f"sqlite:///{home}/mlflow/mlflow.db", "http://mlflow.test")


def register_prompt(home: Path, run_id: str, content: str) -> RegisteredVersion:
    store, source = store_in(home), home / "source"
    (source / "prompt").mkdir(parents=True, exist_ok=True)
    (source / "prompt" / "prompt.txt").write_text(content)
    with in_run(store, run_id) as run:
        version = register(store, run, source)
    store.promote(version)
    return version


def content_of(home: Path, into: Path) -> str:
    store = store_in(home)
    champion = store.champion("tuned-prompt-one")
    assert champion is not None
    return (store.download(champion, into) / "prompt" / "prompt.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("is_copied", [False, True], ids=["moved", "copied"])
def test_a_home_in_another_place_still_gives_its_artefacts(tmp_path: Path, is_copied: bool) -> None:
    first, second = tmp_path / "first", tmp_path / "deep er" / "second"
    register_prompt(first, "one", "old")
    second.parent.mkdir()
    if is_copied:
        shutil.copytree(first, second)
        # What the copy gives must be its own.
        shutil.rmtree(first / "mlflow" / "artifacts")
    else:
        shutil.move(first, second)
    assert content_of(second, tmp_path / "a") == "old"
    assert register_prompt(second, "two", "new").version == 2
    assert content_of(second, tmp_path / "b") == "new"
    assert not list((first / "mlflow" / "artifacts").rglob("prompt.txt"))


def test_a_store_in_its_place_or_of_others_stays_unchanged(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    client = store.client()
    client.create_experiment("theirs", artifact_location="s3://bucket/theirs")
    with in_run(store, "one"):
        pass
    database, artifacts = tmp_path / "mlflow" / "mlflow.db", tmp_path / "mlflow" / "artifacts"
    assert not follow_moved_artifacts(database, artifacts, "maitre")
    assert not follow_moved_artifacts(tmp_path / "absent.db", artifacts, "maitre")
    # A folder without artefacts is not where they are: the user has chosen another place.
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not follow_moved_artifacts(database, empty, "maitre")
    (empty / "one").mkdir()
    assert follow_moved_artifacts(database, empty, "maitre")
    assert client.get_experiment_by_name("theirs").artifact_location == "s3://bucket/theirs"
