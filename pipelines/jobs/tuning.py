"""Jobs and schedules of the tuning half."""

import dagster as dg

from maitre.settings import Settings
from maitre.workers.launch.run_tags import BASE_MODEL_TAG

BANK = dg.AssetSelection.assets("prompt_bank").upstream()
"""The prompt bank and what it is made from."""

refresh_bank = dg.define_asset_job(
    "refresh_bank",
    selection=BANK,
    description="Tune prompts for new and changed tasks and rebuild the bank.",
)

nightly_bank_refresh = dg.ScheduleDefinition(
    name="nightly_bank_refresh", job=refresh_bank, cron_schedule="0 2 * * *"
)


def tune(settings: Settings) -> dg.Definitions:
    """Return the job `tune`; its runs go to the warm workers of the settings' base model."""
    job = dg.define_asset_job(
        "tune",
        selection=dg.AssetSelection.assets("tuned_prompts"),
        description="Tune one task (a partition) from the best start that the bank offers.",
        # One process: a warm worker's own, if there is a warm worker.
        executor_def=dg.in_process_executor,
        tags={BASE_MODEL_TAG: settings.base_model_name},
    )
    return dg.Definitions(jobs=[job])
