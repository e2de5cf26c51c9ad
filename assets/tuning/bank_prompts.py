"""`bank_prompts`: a tuned prompt for each task of the bank, one partition per task."""

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd

from assets.shared.inputs import OWNERS, base_model
from assets.shared.retries import retry_outages
from assets.tuning.tuning_tasks import BANK_TASKS, tuning_tasks
from maitre import fingerprints
from maitre.progress import LoggedProgress
from resources.data_home import BankPromptResult, DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking, run_links

if TYPE_CHECKING:
    from maitre.tuning.config import TuneConfig, TuneResult

DATA_VERSION_TAG = "dagster/data_version"


class BankTuneConfig(dg.Config):
    """The settings for tuning the bank's prompts: all tasks of a run share one batch.

    Every prompt starts from the mean of the existing prompts; where none exist, from the mean of
    those that a first, short round tunes.
    """

    iterations: int = 25
    first_iterations: int = 10
    batch_size: int = 16
    learning_rate: float = 0.05
    virtual_tokens: int = 4
    seed: int = 0

    def tune_config(self) -> "TuneConfig":
        """Return the tuner's configuration; it evaluates at the start and at the end only."""
        from maitre.tuning.config import TuneConfig

        return TuneConfig(
            virtual_tokens=self.virtual_tokens,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_iterations=self.iterations,
            eval_every=None,
        )


with warnings.catch_warnings():
    # Backfill policies are in beta; one warning per import helps nobody.
    warnings.simplefilter("ignore", dg.BetaWarning)
    _asset = dg.asset(
        deps=[tuning_tasks, base_model],
        partitions_def=BANK_TASKS,
        # All tasks that are asked for at once share a batch, far cheaper than a run each.
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="tuning",
        kinds={"torch", "safetensors"},
        owners=OWNERS,
        code_version="3",
        pool="training",
    )


@_asset
@retry_outages
def bank_prompts(
    context: dg.AssetExecutionContext,
    config: BankTuneConfig,
    home: DataHome,
    inputs: Inputs,
    language_model: LanguageModel,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """Tune a prompt for each task of the bank; keep the prompts of tasks that have not changed.

    A run that names no partitions tunes all of them.
    """
    table = home.task_table().query("role == 'bank'").set_index("task")
    is_partitioned = context.has_partition_key or context.has_partition_key_range
    asked = set(context.partition_keys) if is_partitioned else set(table.index)
    names = [name for name in table.index if name in asked]
    recipe = f"{language_model.fingerprint()} {json.dumps(config.model_dump(), sort_keys=True)}"
    wanted = {
        name: fingerprints.of_text(f"{table.loc[name, 'fingerprint']} {recipe}")
        for name in table.index
    }
    stored = {name: home.bank_prompt_result(name) for name in wanted}
    current = {name for name, result in stored.items() if result and result.key == wanted[name]}
    fresh = [name for name in names if name not in current]
    with mlflow.run(context) as run:
        context.log.info(f"{len(fresh)} prompts to tune, {len(names) - len(fresh)} unchanged")
        if fresh:
            known = [home.bank_prompt(name) for name in sorted(current)]
            for tuned in _tune_together(context, config, inputs, language_model, fresh, known):
                ended = BankPromptResult(
                    key=wanted[tuned.task],
                    eval_loss=tuned.eval_loss,
                    eval_accuracy=tuned.eval_accuracy,
                    iterations=tuned.iterations,
                )
                home.write_bank_prompt(tuned.task, tuned.prompt, ended)
        shown = ["group", "majority_share"]
        outcome = pd.DataFrame(
            [
                {"task": name, **asdict(result), **table.loc[name, shown].to_dict()}
                for name in names
                if (result := home.bank_prompt_result(name)) is not None
            ]
        )
        run.params(config.model_dump() | {"base_model": language_model.path_or_id})
        accuracies = zip(outcome["task"], outcome["eval_accuracy"], strict=True)
        run.metrics({f"eval_accuracy.{task}": accuracy for task, accuracy in accuracies})
        margin = outcome["eval_accuracy"] - outcome["majority_share"]
        if not is_partitioned:
            _note_partitions(context, outcome)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprints.of_text("".join(sorted(outcome["key"])))[:16]),
            metadata={
                "prompts": len(outcome),
                "tuned_now": len(fresh),
                "median_eval_accuracy": float(outcome["eval_accuracy"].median()),
                "median_margin_over_majority": float(margin.median()),
                "table": dg.MetadataValue.md(outcome.drop(columns="key").to_markdown(index=False)),
                **run_links(run),
            },
        )


def read_bank_prompts(home: DataHome) -> dict[str, tuple[np.ndarray, BankPromptResult]]:
    """Return prompt `[virtual_tokens, hidden]` and result of each task that has been tuned."""
    names = home.task_table().query("role == 'bank'")["task"]
    results = {name: home.bank_prompt_result(name) for name in names}
    return {name: (home.bank_prompt(name), result) for name, result in results.items() if result}


def _tune_together(
    context: dg.AssetExecutionContext,
    config: BankTuneConfig,
    inputs: Inputs,
    language_model: LanguageModel,
    names: list[str],
    known: list[np.ndarray],
) -> "list[TuneResult]":
    from maitre.tuning.common_start import tune_from_common_start
    from maitre.tuning.config import IterationReport

    context.log.info("reading the examples and computing their keys and values in the model")
    progress = LoggedProgress(context.log, f"iterations of {len(names)} tasks in one batch")
    evaluation_progress = LoggedProgress(context.log, "tasks evaluated")

    def report(iteration: IterationReport) -> None:
        if iteration.eval_loss is not None:
            evaluation_progress(names.index(iteration.task) + 1, len(names))
        if iteration.task == names[-1] and iteration.train_loss is not None:
            note = f"train loss of {iteration.task} {iteration.train_loss:.2f}"
            progress(iteration.iteration, config.iterations, note)

    return tune_from_common_start(
        language_model.load(),
        [inputs.task_source().read(name) for name in names],
        known=known,
        first_iterations=config.first_iterations,
        config=config.tune_config(),
        seed=config.seed,
        on_iteration=report,
    )


def _note_partitions(context: dg.AssetExecutionContext, outcome: pd.DataFrame) -> None:
    """Report to Dagster the partitions that a run without partition keys has tuned."""
    for row in outcome.to_dict(orient="records"):
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key,
                partition=row["task"],
                metadata={name: row[name] for name in ("eval_loss", "eval_accuracy", "iterations")},
                tags={DATA_VERSION_TAG: row["key"][:16]},
            )
        )
