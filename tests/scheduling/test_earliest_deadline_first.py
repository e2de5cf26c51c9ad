"""What is special about earliest deadline first; the contract's tests run on every policy."""

from maitre.scheduling import Cluster, Job, ModelSpec, named_policy, simulate

MODEL = ModelSpec("m", 10.0, 5.0, 1.0, {1: 1.0, 2: 0.5})


def job(name: str, deadline_s: float, model: str = "m", submitted_s: float = 0.0) -> Job:
    return Job(name, model, submitted_s, deadline_s, 20, 20, 20.0, 20.0)


def starts(jobs: list[Job], cluster: Cluster) -> list[str]:
    run = simulate(jobs, cluster, named_policy("earliest_deadline_first"))
    return [str(event.job_id) for event in run.events if event.kind == "job_start"]


def test_the_earliest_deadline_starts_first() -> None:
    jobs = [job("late", 900.0), job("soon", 100.0), job("middle", 300.0)]
    assert starts(jobs, Cluster(1, 1.0, {"m": MODEL})) == ["soon", "middle", "late"]


def test_the_earliest_deadline_takes_another_models_idle_worker() -> None:
    models = {"m": MODEL, "n": ModelSpec("n", 10.0, 5.0, 1.0, {1: 1.0})}
    jobs = [job("first", 60.0), job("second", 200.0, "n", submitted_s=40.0)]
    assert starts(jobs, Cluster(1, 1.0, models)) == ["first", "second"]


def test_sets_of_two_models_that_do_not_fit_together_do_not_block_each_other() -> None:
    pair = {"m": ModelSpec("m", 10.0, 5.0, 1.0, {2: 1.0}), "n": ModelSpec("n", 1.0, 1, 1, {2: 1.0})}
    jobs = [job(f"{name}{i}", 500.0 + i, name) for i in range(3) for name in pair]
    run = simulate(jobs, Cluster(3, 1.0, pair), named_policy("earliest_deadline_first"))
    assert run.outcome.violations == 0


def test_an_idle_worker_is_given_back_after_the_window() -> None:
    policy = named_policy("earliest_deadline_first", idle_window_s=7.0)
    jobs = [job("only", 100.0), job("much later", 900.0, submitted_s=500.0)]
    run = simulate(jobs, Cluster(4, 1.0, {"m": MODEL}), policy)
    finished = next(event.time_ms for event in run.events if event.kind == "job_finish")
    stopped = next(event.time_ms for event in run.events if event.kind == "worker_stop")
    assert stopped - finished == 7000
