"""A pool or a database that cannot be asked for now fails no run."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from kubernetes import client

from maitre.settings import Settings
from maitre.workers.launch.dagster_internals import (
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    ResumeRunContext,
)
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.run_tags import BASE_MODEL_TAG
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.kubernetes import KubernetesPool
from maitre.workers.pool.pool import PoolError
from tests.workers.kubernetes_double import Cluster, kubernetes_double
from tests.workers.pool.test_kubernetes import add_pod

MODEL = "tiny-1.5b"


@dg.job
def nothing() -> None: ...


@pytest.fixture
def cluster() -> Iterator[tuple[KubernetesPool, Cluster]]:
    """A pool with one worker, which has no address yet."""
    with kubernetes_double() as (url, held):
        add_pod(held, "w0")
        api = client.ApiClient(client.Configuration(host=url))
        yield KubernetesPool(api, "maitre", "token", sleep=lambda _: None), held


@pytest.fixture
def launcher(
    cluster: tuple[KubernetesPool, Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WarmPoolRunLauncher]:
    with dg.DagsterInstance.ephemeral() as instance:
        settings = Settings(request_queue_url=f"sqlite:///{tmp_path}/requests.db")
        made = WarmPoolRunLauncher(settings=settings)
        made.register_instance(instance)
        monkeypatch.setattr(made, "_pool_for", lambda _: cluster[0])
        yield made


def a_run(launcher: WarmPoolRunLauncher) -> dg.DagsterRun:
    tags = {BASE_MODEL_TAG: MODEL}
    return launcher._instance.create_run_for_job(
        nothing, tags=tags, status=dg.DagsterRunStatus.STARTED
    )


@pytest.mark.parametrize(("errors", "why"), [(1, "no idle warm worker"), (20, "cannot list pods")])
def test_a_run_waits_in_the_queue_while_the_api_server_fails(
    launcher: WarmPoolRunLauncher,
    cluster: tuple[KubernetesPool, Cluster],
    errors: int,
    why: str,
) -> None:
    """One error the pool takes by itself; of more Dagster is told to queue the run again."""
    cluster[1].trouble.extend([(500, {})] * errors)
    with pytest.raises(DagsterUserCodeUnreachableError, match=f"{why}.*back to the queue"):
        launcher.launch_run(LaunchRunContext(a_run(launcher), None))


def test_a_run_waits_in_the_queue_while_the_database_is_away(
    launcher: WarmPoolRunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(LeaseStore, "current", locked)
    run = a_run(launcher)
    with pytest.raises(DagsterUserCodeUnreachableError, match=r"^database is locked; the run"):
        launcher.launch_run(LaunchRunContext(run, None))
    # What resume_run raises would fail the run.
    launcher.resume_run(ResumeRunContext(run, None, 1))
    told = [
        e.dagster_event.message for e in launcher._instance.all_logs(run.run_id) if e.dagster_event
    ]
    assert "[WarmPoolRunLauncher] Not resumed yet: database is locked" in told


def test_a_run_that_a_worker_has_is_not_queued_again_for_a_note(
    launcher: WarmPoolRunLauncher,
    cluster: tuple[KubernetesPool, Cluster],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def locked(*_: object) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))

    monkeypatch.setattr(launcher._instance, "add_run_tags", locked)
    placed = launcher._leases.grant(
        "r", worker="w0", url="", after=None, now=datetime.now(UTC), others=["w1"]
    )
    assert placed is not None
    with caplog.at_level(logging.WARNING):
        launcher._note_lease(a_run(launcher), placed)
    assert "is on w0,w1, not noted: database is locked" in caplog.text


def test_an_api_server_that_nobody_answers_for_is_said(tmp_path: Path) -> None:
    with kubernetes_double() as (url, _):
        pass
    configuration = client.Configuration(host=url)
    configuration.retries = False
    pool = KubernetesPool(client.ApiClient(configuration), "maitre", "", sleep=lambda _: None)
    with pytest.raises(PoolError, match="cannot list pods: no API server"):
        pool.workers()
