"""The step Jobs of a cancelled run are deleted, also one that starts a moment later."""

from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiException

from maitre.workers.launch.step_jobs import RUN_LABEL, delete_step_jobs

STEP = "step_worker"


class Jobs:
    """A double of the API server's Jobs; `later` are created at that look."""

    def __init__(self, later: dict[int, str] | None = None) -> None:
        self.there: dict[str, dict[str, str]] = {}
        self.later = later or {}
        self.looks = 0
        self.error: ApiException | None = None

    def add(self, name: str, run_id: str, component: str = STEP) -> None:
        self.there[name] = {RUN_LABEL: run_id, "app.kubernetes.io/component": component}

    def list_namespaced_job(self, namespace: str, *, label_selector: str, **_: Any) -> Any:
        assert namespace == "maitre"
        if self.looks in self.later:
            self.add(self.later[self.looks], "run")
        self.looks += 1
        wanted = dict(part.split("=") for part in label_selector.split(","))
        items = [
            SimpleNamespace(metadata=SimpleNamespace(name=name, deletion_timestamp=None))
            for name, labels in self.there.items()
            if wanted.items() <= labels.items()
        ]
        return SimpleNamespace(items=items)

    def delete_namespaced_job(self, name: str, namespace: str, **options: Any) -> None:
        # Without it the Job's pods would stay.
        assert options["propagation_policy"] == "Background"
        if self.error is not None:
            raise self.error
        del self.there[name]


def test_all_steps_of_the_run_are_deleted_and_nothing_else() -> None:
    jobs = Jobs()
    for number in range(16):
        jobs.add(f"step-{number}", "run")
    jobs.add("other-run", "another")
    jobs.add("the-run-itself", "run", component="run_worker")
    assert delete_step_jobs(jobs, "maitre", "run", sleep=lambda _: None) == 16
    assert set(jobs.there) == {"other-run", "the-run-itself"}


def test_a_step_that_starts_while_the_run_ends_is_deleted_too() -> None:
    jobs = Jobs(later={1: "late", 3: "later"})
    jobs.add("first", "run")
    assert delete_step_jobs(jobs, "maitre", "run", sleep=lambda _: None) == 3
    assert jobs.there == {}


def test_it_ends_within_ten_seconds_however_many_start() -> None:
    jobs = Jobs(later={look: f"step-{look}" for look in range(100)})
    slept: list[float] = []
    delete_step_jobs(jobs, "maitre", "run", sleep=slept.append)
    assert sum(slept) <= 10


def test_a_job_that_has_gone_meanwhile_is_no_error_and_any_other_is_one() -> None:
    jobs = Jobs()
    jobs.add("first", "run")
    jobs.error = ApiException(status=404)
    assert delete_step_jobs(jobs, "maitre", "run", sleep=lambda _: None) == 1
    jobs.error = ApiException(status=403)
    with pytest.raises(ApiException):
        delete_step_jobs(jobs, "maitre", "run", sleep=lambda _: None)
