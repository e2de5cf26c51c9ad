"""Which run is the one of a request's attempt."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

from maitre.requests.store import RequestStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_of_two_runs_for_an_attempt_one_gets_it(tmp_path: Path) -> None:
    queue = RequestStore(f"sqlite:///{tmp_path}/requests.db")
    made = queue.submit("task", deadline_at=NOW + timedelta(hours=1), now=NOW)
    both = Barrier(2)

    def bind(run_id: str) -> bool:
        both.wait()
        return queue.bind_run(made.request_id, attempt=1, run_id=run_id)

    with ThreadPoolExecutor(2) as launchers:
        got = dict(zip("ab", launchers.map(bind, "ab"), strict=True))
    [run_id] = [run_id for run_id, has_it in got.items() if has_it]
    assert queue.get(made.request_id).run_id == run_id
    # It may ask as often as it likes; of another attempt, or of one that is over, nobody gets it.
    assert queue.bind_run(made.request_id, attempt=1, run_id=run_id)
    assert not queue.bind_run(made.request_id, attempt=2, run_id=run_id)
    queue.cancel(made.request_id, now=NOW)
    assert not queue.bind_run(made.request_id, attempt=1, run_id=run_id)
