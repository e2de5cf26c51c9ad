"""The fit is given samples that the twin's own step time made: it must find it again."""

import numpy as np
import pandas as pd
import pytest

from maitre.twin.errors import TwinInputError
from maitre.twin.fitting.capacity import sustained_rps
from maitre.twin.fitting.design import MOST_RPS, MeasuredServer, bursts
from maitre.twin.fitting.equations import step_equations
from maitre.twin.fitting.fidelity import compare_loads, summary
from maitre.twin.fitting.fit import ProfileIdentity, fit_profile, fit_step
from maitre.twin.fitting.points import BASE, Point, planned_requests
from maitre.twin.fitting.samples import check_samples, lateness_ms

SERVER = MeasuredServer(4, 16, 32, 2048, 2048, 40_000)
IDENTITY = ProfileIdentity("cpu/tiny", "tiny", "a CPU", "vLLM", 16, ((8, 10.0), (16, 12.0)))
FRONT_MS = 6.0


def step_ms(tokens: float, kv: float, adapters: int) -> float:
    t = 10.0 + 0.8 * tokens + 0.001 * kv
    return t + (20.0 + 1.5 * adapters + 0.3 * tokens if adapters else 0.0)


def samples_of(point: Point, burst: int) -> list[dict]:
    """A burst on a server that prefills all at once and then decodes all together."""
    requests = planned_requests(point, 2048)
    adapters = len({r.adapter for r in requests} - {BASE})
    prompt = sum(r.input_tokens for r in requests)
    at = [1e-3 * (FRONT_MS + step_ms(prompt, prompt, adapters))]
    for step in range(1, requests[0].output_tokens):
        kv = prompt + len(requests) * step
        at.append(at[-1] + 1e-3 * step_ms(len(requests), kv, adapters))
    return [
        {
            "point": point.name, "kind": point.kind, "role": point.role, "adapter": r.adapter,
            "rank": 16, "due_s": 0.0, "sent_s": 0.0, "first_token_s": at[0],
            "last_token_s": at[-1], "end_s": at[-1], "chunk_s": at,
            "input_tokens": r.input_tokens, "output_tokens": r.output_tokens,
            "asked_tokens": r.output_tokens, "outcome": "ok", "error": "",
            "duration_s": point.duration_s, "burst": burst,
        }
        for r in requests
    ]  # fmt: skip


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    names = [f"a{i}" for i in range(4)]
    rows = [
        row
        for burst, point in enumerate(bursts(names, SERVER, seed=0))
        for row in samples_of(point, burst)
    ]
    return pd.DataFrame(rows)


def test_the_steps_that_made_the_samples_are_found(samples: pd.DataFrame) -> None:
    fit = fit_step(step_equations(samples))
    assert fit.error_percent < 0.5
    both = fit.coefficients["token"] + fit.coefficients["over_small"]
    assert both == pytest.approx(0.8, rel=0.1)
    assert fit.coefficients["adapter"] == pytest.approx(1.5, rel=0.1)
    assert fit.coefficients["front"] == pytest.approx(FRONT_MS, rel=0.3)


@pytest.mark.slow
def test_a_profile_is_made_and_round_trips(samples: pd.DataFrame, tmp_path) -> None:
    profile = fit_profile(samples, SERVER, IDENTITY)
    file = tmp_path / "tiny.yaml"
    file.write_text(profile.to_yaml())
    assert type(profile).load(file).fingerprint() == profile.fingerprint()
    assert profile.loading.disk_to_cpu_ms + 8 * profile.loading.disk_to_cpu_per_rank_ms == (
        pytest.approx(10.0, rel=1e-3)
    )
    assert 0 < sustained_rps(profile, SERVER, 4, 96, 32) < MOST_RPS


def test_failed_bursts_are_left_out_and_too_few_refused(samples: pd.DataFrame) -> None:
    broken = samples.assign(outcome=np.where(samples["burst"] % 2 == 0, "failed", "ok"))
    assert len(step_equations(broken)) < len(step_equations(samples))
    with pytest.raises(TwinInputError, match="8 are needed"):
        fit_step(step_equations(samples).head(3))
    with pytest.raises(TwinInputError, match="chunk_s"):
        check_samples(samples.drop(columns="chunk_s"))


@pytest.mark.slow
def test_loads_are_compared_with_the_same_arrivals(samples: pd.DataFrame) -> None:
    profile = fit_profile(samples, SERVER, IDENTITY)
    point = Point("v", "load", "validation", ("a0", "a1"), 50, 10, rate_rps=0.5, duration_s=60.0)
    rows = []
    for request in planned_requests(point, 2048):
        first = request.due_s + 0.12
        chunks = list(first + 0.035 * np.arange(request.output_tokens))
        rows.append(
            {
                **samples.iloc[0].to_dict(), "point": "v", "kind": "load", "role": "validation",
                "adapter": request.adapter, "due_s": request.due_s,
                "sent_s": request.due_s + 0.001, "first_token_s": first, "chunk_s": chunks,
                "last_token_s": chunks[-1], "end_s": chunks[-1], "duration_s": 60.0,
                "input_tokens": request.input_tokens, "output_tokens": request.output_tokens,
                "asked_tokens": request.output_tokens,
            }
        )  # fmt: skip
    found = compare_loads(profile, pd.DataFrame(rows), SERVER)
    assert found["throughput_tps_predicted"].iloc[0] == pytest.approx(
        found["throughput_tps"].iloc[0], rel=0.05
    )
    assert summary(found)["starvation_wrong"] == 0
    assert lateness_ms(pd.DataFrame(rows))["p99"] == pytest.approx(1.0)
