"""The code location of the tuning half: prompt bank, tuned prompts, the request sensor."""

import dagster as dg

from assets.inputs import base_model, task_files
from assets.prompt_bank import bank_is_sound, bank_prompts, prompt_bank
from assets.tuned_prompts import tuned_prompt_beats_majority, tuned_prompts
from assets.tuning_tasks import tuning_tasks
from pipelines.jobs import LOGGERS
from pipelines.wiring import resources
from resources.settings import Settings
from resources.warm_pool.tags import BASE_MODEL_TAG
from sensors.tuning_scheduler import tuning_scheduler

INPUTS = [task_files, base_model]
BANK = [tuning_tasks, bank_prompts, prompt_bank]

refresh_bank = dg.define_asset_job(
    "refresh_bank",
    selection=dg.AssetSelection.assets(*INPUTS, *BANK),
    description="Tune prompts for new and changed tasks and rebuild the bank.",
)
tune = dg.define_asset_job(
    "tune",
    selection=dg.AssetSelection.assets(tuned_prompts),
    description="Tune one task (a partition) from the best start that the bank has.",
    # In one process: a warm worker's own, where there is one.
    executor_def=dg.in_process_executor,
    tags={BASE_MODEL_TAG: Settings.read().pool},
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.assets(*INPUTS, *BANK),
    description="Both halves: this one, then the job `serving` (sensor `serving_follows_tuning`).",
)

defs = dg.Definitions(
    assets=[*INPUTS, *BANK, tuned_prompts],
    asset_checks=[bank_is_sound, tuned_prompt_beats_majority],
    jobs=[refresh_bank, tune, everything],
    schedules=[
        dg.ScheduleDefinition(
            name="nightly_bank_refresh", job=refresh_bank, cron_schedule="0 2 * * *"
        )
    ],
    sensors=[tuning_scheduler],
    resources=resources(Settings.read()),
    loggers=LOGGERS,
)
