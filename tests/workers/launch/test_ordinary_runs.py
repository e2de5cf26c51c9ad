"""Runs that no warm worker has: how often run monitoring starts them again."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster_k8s.client import DagsterK8sUnrecoverableAPIError, k8s_api_retry_creation_mutation
from kubernetes.client import ApiException
from urllib3.exceptions import ProtocolError

from maitre.settings import Settings
from maitre.workers.launch.dagster_internals import (
    CheckRunHealthResult,
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.ordinary_runs import MOST_RESUMES


class Jobs(RunLauncher[Any]):
    """Makes a Job of each run; `health` is what is seen of it."""

    def __init__(self) -> None:
        super().__init__()
        self.health = CheckRunHealthResult(WorkerStatus.FAILED, "K8s job failed")
        self.resumed = 0
        self.answers: list[Exception] = []

    def launch_run(self, context: LaunchRunContext) -> None:
        """As dagster-k8s makes a Job, with the errors that it makes of the API server's."""

        def create() -> None:
            if self.answers:
                raise self.answers.pop(0)

        k8s_api_retry_creation_mutation(create, max_retries=1, timeout=0)

    def terminate(self, run_id: str) -> bool:
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return self.health

    @property
    def supports_resume_run(self) -> bool:
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        self.resumed += 1
        if self.answers:
            self.launch_run(context)

    def get_run_worker_debug_info(
        self, run: dg.DagsterRun, include_container_logs: bool | None = True
    ) -> str:
        return "Reason: OOMKilled"


@dg.job
def nothing() -> None: ...


@pytest.fixture
def monitored(tmp_path: Any) -> Iterator[tuple[dg.DagsterInstance, Jobs, str]]:
    """An instance with run monitoring as on the cluster, and a started run."""
    jobs = Jobs()
    overrides = {
        "run_launcher": {
            "module": "maitre.workers.launch.launcher",
            "class": "WarmPoolRunLauncher",
        },
        "run_monitoring": {"enabled": True, "max_resume_run_attempts": 100},
    }
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, WarmPoolRunLauncher)
        launcher._given_settings = Settings(request_queue_url=f"sqlite:///{tmp_path}/requests.db")
        launcher._ordinary_launcher = jobs
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        yield instance, jobs, run.run_id


def look(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    [record] = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
    if record.dagster_run.status is dg.DagsterRunStatus.STARTED:
        monitor_started_run(instance, None, record, logging.getLogger("test"))
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_job_that_is_lost_each_time_is_given_up(
    monitored: tuple[dg.DagsterInstance, Jobs, str],
) -> None:
    instance, jobs, run_id = monitored
    for _ in range(MOST_RESUMES):
        assert look(instance, run_id) is dg.DagsterRunStatus.STARTED
    assert look(instance, run_id) is dg.DagsterRunStatus.FAILURE
    look(instance, run_id)
    assert jobs.resumed == MOST_RESUMES
    [failed] = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert failed.dagster_event is not None
    said = failed.dagster_event.message or ""
    assert "started again 3 times" in said
    assert "OOMKilled" in said


def test_an_api_server_that_does_not_answer_starts_no_second_job(
    monitored: tuple[dg.DagsterInstance, Jobs, str],
) -> None:
    instance, jobs, run_id = monitored
    jobs.health = CheckRunHealthResult(WorkerStatus.UNKNOWN, "(500) Reason: InternalError")
    for _ in range(2 * MOST_RESUMES):
        assert look(instance, run_id) is dg.DagsterRunStatus.STARTED
    assert jobs.resumed == 0
    # As dagster-k8s says that a Job is gone.
    jobs.health = CheckRunHealthResult(WorkerStatus.UNKNOWN, "Job x could not be found")
    look(instance, run_id)
    assert jobs.resumed == 1


def to_launch(instance: dg.DagsterInstance) -> LaunchRunContext:
    return LaunchRunContext(instance.create_run_for_job(nothing), None)


def there_already() -> ApiException:
    refused = ApiException(status=409)
    refused.body = '{"kind": "Status", "reason": "AlreadyExists", "code": 409}'
    return refused


def conflict() -> ApiException:
    """As of a quota that is changed at that moment."""
    refused = ApiException(status=409)
    refused.body = '{"kind": "Status", "reason": "Conflict", "code": 409}'
    return refused


@pytest.mark.parametrize("error", [ApiException(status=503), ProtocolError("aborted"), conflict()])
def test_a_run_waits_in_the_queue_while_no_job_can_be_made(
    monitored: tuple[dg.DagsterInstance, Jobs, str], error: Exception
) -> None:
    instance, jobs, run_id = monitored
    jobs.answers = [error] * 2
    with pytest.raises(DagsterUserCodeUnreachableError, match="cannot make the run's Job for now"):
        instance.run_launcher.launch_run(to_launch(instance))
    # Made, though the answer was lost.
    jobs.answers = [there_already()]
    instance.run_launcher.launch_run(to_launch(instance))
    # What a resume raises fails the run.
    jobs.answers = [error] * 2
    assert look(instance, run_id) is dg.DagsterRunStatus.STARTED


def test_a_job_that_the_role_does_not_allow_fails_its_run(
    monitored: tuple[dg.DagsterInstance, Jobs, str],
) -> None:
    instance, jobs, _ = monitored
    jobs.answers = [ApiException(status=403)]
    with pytest.raises(DagsterK8sUnrecoverableAPIError):
        instance.run_launcher.launch_run(to_launch(instance))


def test_a_cancelled_job_run_takes_its_step_jobs_with_it(
    monitored: tuple[dg.DagsterInstance, Jobs, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, _jobs, run_id = monitored
    launcher = instance.run_launcher
    assert isinstance(launcher, WarmPoolRunLauncher)
    deleted: list[tuple[str, str]] = []

    def delete(_api: object, namespace: str, run: str) -> int:
        deleted.append((namespace, run))
        return 16

    monkeypatch.setattr("maitre.workers.launch.launcher.delete_step_jobs", delete)
    monkeypatch.setattr(Jobs, "terminate", lambda *_: True)
    context = SimpleNamespace(namespace="maitre")
    monkeypatch.setattr(Jobs, "get_container_context_for_run", lambda *_: context, raising=False)
    assert launcher.terminate(run_id)
    assert deleted == [("maitre", run_id)]
    events = [entry.message for entry in instance.all_logs(run_id)]
    assert any("16 step Jobs deleted" in message for message in events)
