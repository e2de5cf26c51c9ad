"""The code location of the tuning half: prompt bank, tuned prompts, the request sensor."""

import logging
from pathlib import Path

import dagster as dg

from assets.shared.inputs import base_model, task_files
from assets.tuning.bank_prompts import bank_prompts
from assets.tuning.bank_quality import bank_is_sound, bank_quality
from assets.tuning.prompt_bank import prompt_bank
from assets.tuning.tuned_prompts import tuned_prompt_beats_majority, tuned_prompts
from assets.tuning.tuning_tasks import tuning_tasks
from maitre.errors import UserError
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.launch.run_tags import BASE_MODEL_TAG
from pipelines.jobs import LOGGERS
from pipelines.wiring import resources
from resources.language_model import LanguageModel
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
    asset_checks=[bank_is_sound, bank_quality, tuned_prompt_beats_majority],
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


def warm_up() -> None:
    """Do what the first tuning run of a process would do for the first time.

    A warm worker calls this while it loads: the imports that only a run needs, the tracking store,
    and one step of tuning a task, where there is one to be read.
    """
    from maitre.bank import index
    from maitre.tuning import bank_entries, start, trial
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.tasks import find_task
    from maitre.tuning.tune import tune as tune_prompt

    del index, bank_entries, start, trial
    settings = Settings.read()
    TrackingStore(settings.mlflow_tracking_uri).client().search_experiments(max_results=1)
    model = LanguageModel(path_or_id=settings.base_model).load()
    config = TuneConfig(max_iterations=1, batch_size=2, eval_rows=1)
    for header in sorted(Path(settings.tasks).glob("*/task.yaml"))[:1]:
        try:
            task = find_task(settings.tasks, header.parent.name)
            tune_prompt(model, task, init=None, config=config, seed=0)
        except UserError as error:
            logging.getLogger(__name__).warning("no step to warm up with: %s", error)
