"""`maitre tune` and `maitre requests` on a queue of their own, with nothing running."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from maitre.cli.main import main
from maitre.requests.request import RequestState
from maitre.requests.store import RequestStore
from maitre.scheduling.policies import named_policy
from maitre.settings import Settings
from maitre.workers.scheduling.cluster_file import planned_cluster
from maitre.workers.scheduling.decision_log import Decision, write_tick
from maitre.workers.scheduling.live_snapshot import live_snapshot
from tests.tiny_inputs import write_tasks


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RequestStore:
    model = {"warm_up_s": 10, "lookup_s": 0, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": 1, "gpu_price_per_hour": 3.6, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAITRE_TASKS", str(write_tasks(tmp_path / "tasks", ("first", "second"))))
    monkeypatch.setenv("MAITRE_BASE_MODEL", "models/tiny")
    monkeypatch.setenv("MAITRE_CLUSTER", str(tmp_path / "cluster.yaml"))
    url = f"sqlite:///{tmp_path}/requests.db"
    monkeypatch.setenv("MAITRE_REQUEST_QUEUE_URL", url)
    return RequestStore(url)


@pytest.fixture
def maitre(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["maitre", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_finish_and_price_are_told_at_submission(maitre, store: RequestStore) -> None:
    code, out, _ = maitre("tune", "first", "--deadline", "in 10m", "--json")
    assert code == 0
    told = json.loads(out)
    finish = datetime.fromisoformat(told["predicted_finish_at"])
    submitted = datetime.fromisoformat(told["submitted_at"])
    # A warm-up and forty steps of half a second, on one GPU of 3.6 an hour.
    assert (finish - submitted).total_seconds() == pytest.approx(30.0)
    assert told["predicted_price"] == pytest.approx(20 / 1000)
    # The next one waits for it.
    _, out, _ = maitre("tune", "second", "--deadline", "11m", "--json")
    later = datetime.fromisoformat(json.loads(out)["predicted_finish_at"])
    assert (later - finish).total_seconds() == pytest.approx(20.0, abs=5.0)


def test_a_deadline_that_cannot_be_met_is_refused_with_the_earliest_time(
    maitre, store: RequestStore
) -> None:
    code, _, err = maitre("tune", "first", "--deadline", "20s")
    assert code == 2
    assert "cannot meet this deadline; earliest is 2" in err
    assert store.find() == []
    code, _, _ = maitre("tune", "first", "--deadline", "20s", "--accept-late")
    assert code == 0
    assert len(store.find()) == 1


def test_the_earliest_time_is_one_that_is_taken(maitre, store: RequestStore) -> None:
    # The first is late, and ahead of whatever is due after it: 30 s, then 20 s more.
    assert maitre("tune", "first", "--deadline", "25s", "--accept-late")[0] == 0
    code, _, err = maitre("tune", "second", "--deadline", "20s")
    told = re.search(r"earliest is (\S+) \(--deadline (\d+)s;", err)
    assert code == 2
    assert told is not None
    moment = datetime.fromisoformat(told[1])
    assert moment.utcoffset() is not None
    assert (moment.microsecond, int(told[2])) == (0, pytest.approx(50, abs=2))
    assert maitre("tune", "second", "--deadline", f"{int(told[2]) - 2}s")[0] == 2
    assert maitre("tune", "second", "--deadline", f"{told[2]}s")[0] == 0
    # The time itself is a deadline, too: the store takes it as it stands.
    assert maitre("tune", "first", "--accept-late", "--deadline", told[1])[0] == 0
    assert moment in [request.deadline_at for request in store.find()]


def test_a_retry_is_told_anew(maitre, store: RequestStore) -> None:
    _, out, _ = maitre("tune", "first", "--deadline", "31s", "--json")
    first = json.loads(out)
    request_id = first["request_id"]
    maitre("requests", "cancel", request_id)
    code, _, err = maitre("requests", "retry", request_id, "--deadline", "20s")
    assert code == 2
    assert "cannot meet this deadline; earliest is" in err
    assert store.get(request_id).state is RequestState.CANCELLED
    maitre("tune", "second", "--deadline", "31s")
    code, out, _ = maitre("requests", "retry", request_id, "--deadline", "10m")
    assert code == 0
    assert "Predicted: done at" in out
    finish = store.get(request_id).predicted_finish_at
    before = datetime.fromisoformat(first["predicted_finish_at"])
    assert finish is not None
    assert (finish - before).total_seconds() == pytest.approx(20.0, abs=5.0)
    maitre("requests", "cancel", request_id)
    assert maitre("requests", "retry", request_id, "--deadline", "20s", "--accept-late")[0] == 0


def test_options_of_a_request_are_honoured_or_refused_by_name(maitre, store: RequestStore) -> None:
    _, out, _ = maitre("tune", "first", "--max-iterations", "5", "--json")
    assert store.get(json.loads(out)["request_id"]).max_iterations == 5
    code, _, err = maitre("tune", "first", "--target-accuracy", "0.9", "--seed", "0")
    assert (code, err) == (2, "maitre: --seed, --target-accuracy: only with --local\n")
    code, _, err = maitre("tune", "first", "--local", "--key", "k", "--deadline", "1m")
    assert (code, err) == (2, "maitre: --deadline, --key: of the queue, not with --local\n")
    code, _, err = maitre("tune", "first", "--max-iterations", "0")
    assert (code, err) == (2, "maitre: max_iterations: expected 1 to 1,000,000; got 0\n")
    assert len(store.find()) == 1


def test_a_base_model_without_speeds_is_refused_where_warm_workers_would_run_it(
    maitre, store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAITRE_BASE_MODEL", "models/another")
    # Without warm workers a run needs no plan.
    _, out, _ = maitre("tune", "first", "--json")
    request_id = json.loads(out)["request_id"]
    store.cancel(request_id, now=datetime.now(UTC))
    monkeypatch.setenv("MAITRE_WARM_POOL", "local")
    for asked in (("tune", "first"), ("requests", "retry", request_id), ("up",)):
        code, _, err = maitre(*asked)
        assert code == 2
        assert "models: no speeds of another" in err
        assert err.count("\n") == 1
    assert store.find([RequestState.QUEUED]) == []
    monkeypatch.setenv("MAITRE_CLUSTER", "nowhere.yaml")
    assert "nowhere.yaml: no such file" in maitre("tune", "first")[2]


def test_a_key_adds_one_request(maitre, store: RequestStore) -> None:
    ids = {
        json.loads(maitre("tune", "first", "--key", "k", "--json")[1])["request_id"]
        for _ in range(2)
    }
    assert len(ids) == len(store.find()) == 1


def test_asking_again_for_a_key_is_no_second_wish(maitre, store: RequestStore) -> None:
    # Done in 30 s, if it does not count its own row as one that is ahead.
    asked = ("tune", "first", "--key", "k", "--deadline", "31s")
    assert maitre(*asked)[0] == 0
    code, out, err = maitre(*asked)
    assert (code, err) == (0, "")
    assert out.startswith("first is queued until")
    # The same with a time that is over by now.
    assert maitre("tune", "first", "--key", "k", "--deadline", "2020-01-01")[0] == 0
    assert len(store.find()) == 1
    code, _, err = maitre("tune", "second", "--key", "k")
    assert code == 2
    assert "key 'k' stands for request" in err


def test_cancel_and_retry(maitre, store: RequestStore) -> None:
    _, out, _ = maitre("requests", "submit", "first", "--max-iterations", "4", "--json")
    request_id = json.loads(out)["request_id"]
    code, out, _ = maitre("requests", "cancel", request_id, "--json")
    assert (code, json.loads(out)["state"]) == (0, "cancelled")
    code, _, err = maitre("requests", "cancel", request_id)
    assert code == 2
    assert "is cancelled already" in err
    assert len(err.splitlines()) == 1
    code, out, _ = maitre("requests", "retry", request_id, "--json")
    assert (code, json.loads(out)["attempt"]) == (0, 2)
    assert store.get(request_id).state is RequestState.QUEUED
    code, _, err = maitre("requests", "show", "unknown")
    assert code == 2
    assert "no tuning request 'unknown'" in err


def test_a_tick_is_replayed_and_one_that_was_changed_differs(
    maitre, store: RequestStore, tmp_path: Path
) -> None:
    maitre("tune", "first", "--deadline", "10m")
    now_s = datetime.now(UTC).timestamp()
    seen = live_snapshot(now_s, planned_cluster(Settings.read()), store.find(), [], {})
    decision = Decision(seen, "maitre", tuple(named_policy("maitre").decide(seen)))
    assert decision.actions
    path = write_tick(tmp_path, decision)
    code, out, _ = maitre("cluster", "replay", str(path), "--json")
    assert (code, json.loads(out)["same"]) == (0, True)
    changed = write_tick(tmp_path, replace(decision, actions=()))
    code, out, _ = maitre("cluster", "replay", str(changed))
    assert code == 1
    assert "DIFFERS" in out
    (tmp_path / "not.json").write_text("{}")
    document = decision.to_json()
    del document["actions"], document["policy"]
    cut_off = tmp_path / "cut-off.json"
    cut_off.write_text(json.dumps(document))
    for path in (tmp_path / "not.json", cut_off, tmp_path, tmp_path / "nowhere"):
        code, _, err = maitre("cluster", "replay", str(path))
        assert (code, err.count("\n")) == (2, 1)
        assert str(path) in err


def test_a_pool_that_cannot_be_asked_is_one_line(
    maitre, store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAITRE_WARM_POOL", "kubernetes")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    code, _, err = maitre("tune", "first", "--deadline", "10m")
    assert code == 2
    assert err.startswith("maitre: MAITRE_WARM_POOL=kubernetes asks the cluster as a pod")
    assert err.count("\n") == 1
    assert store.find() == []


def test_a_request_queue_that_cannot_be_opened_is_one_line(
    maitre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("MAITRE_REQUEST_QUEUE_URL", f"sqlite:///{tmp_path}/folder")
    code, _, err = maitre("requests", "list")
    assert (code, err) == (2, "maitre: unable to open database file\n")


def test_the_list_shows_ids_whole_in_a_narrow_terminal(
    maitre, store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    maitre("requests", "submit", "first", "--deadline", "1h")
    [request] = store.find()
    _, out, _ = maitre("requests", "list")
    assert request.request_id in out


def test_the_list_says_when_there_are_more(maitre, store: RequestStore) -> None:
    for name in ("first", "second", "first"):
        maitre("tune", name, "--deadline", "1h", "--json")
    _, out, err = maitre("requests", "list", "--json")
    assert ([row["task"] for row in json.loads(out)], err) == (["first", "second", "first"], "")
    code, out, err = maitre("requests", "list", "--limit", "2", "--json")
    assert code == 0
    assert [row["task"] for row in json.loads(out)] == ["second", "first"]
    assert err == "maitre: 1 more are not listed (--limit)\n"
