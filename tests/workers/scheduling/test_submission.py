from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from maitre.requests.store import RequestStore
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
