"""When the serving half is made again without a schedule and without a request."""

import warnings

import dagster as dg

_Condition = dg.AutomationCondition

_changed: dg.AutomationCondition = (
    _Condition.any_deps_match(_Condition.data_version_changed() | _Condition.will_be_requested())
    | _Condition.code_version_changed()
    | _Condition.newly_missing()
)
FOLLOWS_INPUTS: dg.AutomationCondition = (
    _changed.since_last_handled()
    & ~_Condition.in_progress()
    & ~_Condition.any_deps_in_progress()
    & _Condition.all_deps_blocking_checks_passed()
).with_label("its inputs or its code changed")
"""Make an asset again when the data version of an input, or its own code version, has changed.

Dagster's `eager` would do so after each materialisation of an input. Most of those do not change
the data version here: the user's files are hashed again and again.
"""

# Made only on request, because they need a server that runs, or fan the simulation out.
ON_REQUEST = ("observed_traffic", "vllm_measurements", "trace_batches", "running_servers")


def follow_inputs(serving: dg.Definitions) -> dg.Definitions:
    """Return the definitions with `FOLLOWS_INPUTS` on each asset that follows from others."""

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        if spec.group_name != "serving" or spec.key.to_user_string() in ON_REQUEST:
            return spec
        return spec.replace_attributes(automation_condition=FOLLOWS_INPUTS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return serving.map_asset_specs(func=with_condition)


def serving_automation() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the conditions; like the schedules, it is off at first.

    A run of it trains and places, which takes minutes and replaces the rendered deployments. So
    somebody turns it on deliberately.
    """
    return dg.AutomationConditionSensorDefinition(
        "serving_follows_its_inputs",
        target=dg.AssetSelection.groups("serving"),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Makes traces, capacity model, plan and deployments again when the adapters, "
        "the profile or the code of one of them changed.",
    )
