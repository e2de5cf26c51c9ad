"""What follows by itself when an input changed, and what does not."""

import dagster as dg
import pytest

from pipelines.automation import FOLLOWS_INPUTS

VERSION = {"given": "1"}


@dg.asset
def given() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(VERSION["given"]))


@dg.asset(deps=[given], automation_condition=FOLLOWS_INPUTS)
def follows() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(f"of {VERSION['given']}"))


@dg.asset(deps=[follows], automation_condition=FOLLOWS_INPUTS)
def last() -> None: ...


DEFS = dg.Definitions(assets=[given, follows, last])


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_only_a_new_data_version_is_followed() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        VERSION["given"] = "1"
        dg.materialize([given, follows, last], instance=instance)
        result = dg.evaluate_automation_conditions(DEFS, instance)
        assert result.total_requested == 0
        dg.materialize([given], instance=instance)
        result = dg.evaluate_automation_conditions(DEFS, instance, cursor=result.cursor)
        assert result.total_requested == 0, "the input is as it was"
        VERSION["given"] = "2"
        dg.materialize([given], instance=instance)
        result = dg.evaluate_automation_conditions(DEFS, instance, cursor=result.cursor)
        assert result.get_num_requested(follows.key) == 1
        assert result.get_num_requested(last.key) == 1
        dg.materialize([given, follows, last], instance=instance, selection=[follows, last])
        result = dg.evaluate_automation_conditions(DEFS, instance, cursor=result.cursor)
        assert result.total_requested == 0
