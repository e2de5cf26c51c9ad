"""The code location of the tuning half: prompt bank, tuned prompts, the request sensor."""

import logging
from pathlib import Path

import dagster as dg

import assets.tuning
import pipelines.jobs.tuning
import sensors.tuning_scheduler
from maitre.errors import UserError
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from pipelines.code_location import code_location, found_in
from resources.language_model import LanguageModel


def tuning_half(settings: Settings) -> dg.Definitions:
    """Return the assets, checks, jobs, schedules and sensors of the tuning half."""
    found = found_in(assets.tuning, [pipelines.jobs.tuning, sensors.tuning_scheduler])
    return dg.Definitions.merge(found, pipelines.jobs.tuning.tune(settings))


@dg.definitions
def defs() -> dg.Definitions:
    """Return the code location; read the settings."""
    settings = Settings.read()
    return code_location(settings, tuning_half(settings))


def warm_up(settings: Settings) -> None:
    """Do what the first tuning run of a process would do for the first time.

    A warm worker calls this while it loads: the imports that only a run needs, the tracking store,
    and one step of tuning a task, if there is a task that can be read.
    """
    from maitre.bank import index
    from maitre.tuning import bank_entries, cold_comparison, start
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.tasks import find_task
    from maitre.tuning.tune import tune as tune_prompt

    del index, bank_entries, cold_comparison, start
    TrackingStore(settings.mlflow_tracking_uri).client().search_experiments(max_results=1)
    model = LanguageModel(path_or_id=settings.base_model).load()
    config = TuneConfig(max_iterations=1, batch_size=2, eval_rows=1)
    for header in sorted(Path(settings.tasks).glob("*/task.yaml"))[:1]:
        try:
            task = find_task(settings.tasks, header.parent.name)
            tune_prompt(model, task, init=None, config=config, seed=0)
        except UserError as error:
            logging.getLogger(__name__).warning("no tuning step in the warm-up: %s", error)
