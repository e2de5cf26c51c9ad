from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import yaml

from maitre.requests import RequestError
from maitre.requests.request import new_request
from maitre.requests.store import RequestStore
from maitre.requests.tables import engine, requests
from maitre.settings import Settings
from maitre.workers.scheduling import submission
from maitre.workers.scheduling.submission import TuneOrder, submit

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=str(tmp_path),
        request_queue_url=f"sqlite:///{tmp_path}/requests.db",
        cluster=str(tmp_path / "no-cluster.yaml"),
    )


def test_a_forecast_counts_the_whole_queue(settings: Settings, tmp_path: Path) -> None:
    model = {"warm_up_s": 0, "lookup_s": 2, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": 1, "gpu_price_per_hour": 1.0, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    changes = {"cluster": str(tmp_path / "cluster.yaml"), "base_model": "models/tiny"}
    settings = settings.model_copy(update=changes)
    count, iterations = 1100, 2
    rows = []
    for index in range(count):
        at = NOW + timedelta(hours=1, seconds=index)
        row = new_request(f"t{index}", deadline_at=at, now=NOW, base_model="tiny", lookup=False)
        row = replace(row, iterations_cold=float(iterations), iterations_bank=float(iterations))
        rows.append({**vars(row), "state": str(row.state)})
    with engine(settings.request_queue_url).begin() as connection:
        connection.execute(requests.insert(), rows)

    def order(deadline_s: float) -> TuneOrder:
        at = NOW + timedelta(seconds=deadline_s)
        return TuneOrder("task", at, max_iterations=10, lookup=False)

    # One GPU: all of the queue first, a second for each request, then its own 5 s.
    behind_all = submit(settings, order(7200), NOW).request
    assert behind_all.predicted_finish_at == NOW + timedelta(seconds=count + 5)
    # Of two deadlines that leave too little time the same one is the earliest that can be met.
    for deadline_s in (1, 4):
        with pytest.raises(RequestError, match=r"earliest is .* \(--deadline 5s"):
            submit(settings, order(deadline_s), NOW)


def test_of_equal_submissions_at_once_exactly_one_is_the_new_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 12
    together = Barrier(count)
    predict = submission._predict

    def predict_together(*arguments: Any) -> Any:
        # Each has looked for the key and has found nothing.
        together.wait()
        return predict(*arguments)

    monkeypatch.setattr(submission, "_predict", predict_together)
    order = TuneOrder("task", NOW + timedelta(hours=1), idempotency_key="k")
    with ThreadPoolExecutor(count) as threads:
        answers = list(threads.map(lambda _: submit(settings, order, NOW), range(count)))
    assert Counter(answer.is_new for answer in answers) == {True: 1, False: count - 1}
    [queued] = RequestStore(settings.request_queue_url).find()
    assert {answer.request.request_id for answer in answers} == {queued.request_id}
