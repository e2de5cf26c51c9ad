"""A step is tried again when a service did not answer, and only then."""

import dagster as dg
import httpx2
import pytest
import requests
import sqlalchemy as sa

from assets.shared import retries
from assets.shared.retries import retry_outages
from maitre.errors import UserError
from maitre.processes.outages import is_outage
from tests.halves import SERVING, TUNING


def caused(error: BaseException) -> RuntimeError:
    """As a client library does that raises an error of its own."""
    try:
        try:
            raise error
        except type(error):
            raise RuntimeError("the call failed") from None
    except RuntimeError as wrapped:
        return wrapped


OUTAGES = [
    ConnectionRefusedError("refused"),
    TimeoutError("no answer"),
    httpx2.ConnectError("refused"),
    requests.exceptions.ConnectTimeout("no answer"),
    sa.exc.OperationalError("select", None, OSError("database is locked")),
    caused(requests.exceptions.ConnectionError("refused")),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_what_a_client_raises_without_an_answer_is_an_outage(error: BaseException) -> None:
    assert is_outage(error)


@pytest.mark.parametrize("error", [UserError("bad"), FileNotFoundError("f"), KeyError("k")])
def test_a_wrong_input_and_a_defect_are_no_outages(error: BaseException) -> None:
    assert not is_outage(error)


def materialize_failing(error: Exception, times: int) -> tuple[bool, int]:
    """Return whether an asset succeeds that fails so often, and how often it was tried."""
    tries = []

    @dg.asset
    @retry_outages
    def shaky(context: dg.AssetExecutionContext) -> None:
        tries.append(context.run.run_id)
        if len(tries) <= times:
            raise error

    return dg.materialize([shaky], raise_on_error=False).success, len(tries)


def test_an_outage_is_retried_and_a_wrong_input_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "OUTAGE_RETRIES", dg.RetryPolicy(max_retries=3, delay=0.01))
    assert materialize_failing(ConnectionError("refused"), 2) == (True, 3)
    assert materialize_failing(ConnectionError("refused"), 9) == (False, 4)
    assert materialize_failing(UserError("no such file"), 9) == (False, 1)


def test_every_asset_with_a_context_is_retried_but_tuned_prompts() -> None:
    """A tuning run is resumed by the warm pool, on another worker if need be."""
    without = {
        asset.key.to_user_string()
        for asset in [*SERVING, *TUNING]
        if isinstance(asset, dg.AssetsDefinition)
        and asset.specs_by_key[asset.key].group_name != "inputs"
        and not hasattr(asset.op.compute_fn.decorated_fn, "__wrapped__")
    }
    assert without == {"tuned_prompts"}
