"""`tuned_prompts`: a task tuned on request, from the best start that the bank has."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.shared.figures import curves, inline
from assets.shared.inputs import OWNERS, base_model, task_files
from assets.tuning.prompt_bank import load_bank, prompt_bank
from assets.tuning.record_reuse import record_reuse
from assets.tuning.tuned_prompt_record import add_to_bank
from maitre.progress import LoggedProgress
from maitre.tracking.tuned_prompt import register_tuned_prompt
from maitre.workers.process.run_context import TuningInputs, current_run
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking, run_links

if TYPE_CHECKING:
    from maitre.bank.lookup import Lookup
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import IterationReport, TuneConfig, TuneResult
    from maitre.tuning.tasks import Task

TASKS_NAME = "tasks"
TASKS = dg.DynamicPartitionsDefinition(name=TASKS_NAME)


class TuneRequestConfig(dg.Config):
    """How far to tune. Without a target the run goes on to `max_iterations`, and the best is kept.

    `compare_with_cold` fixes the target beforehand by a cold run of another seed and tunes cold to
    it as well, so that the saving is seen; it costs two more runs. Without `lookup` the bank is not
    asked and the start is cold.
    """

    target_loss: float | None = None
    target_accuracy: float | None = None
    max_iterations: int = 40
    batch_size: int = 16
    learning_rate: float = 0.03
    virtual_tokens: int = 4
    seed: int = 0
    compare_with_cold: bool = False
    lookup: bool = True

    def has_target(self) -> bool:
        """Whether the iterations that a run takes say how good its start was."""
        targets = (self.target_loss, self.target_accuracy)
        return self.compare_with_cold or any(target is not None for target in targets)

    def tune_config(self) -> "TuneConfig":
        """The tuner's configuration."""
        from maitre.tuning.config import TuneConfig

        return TuneConfig(
            virtual_tokens=self.virtual_tokens,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_iterations=self.max_iterations,
            target_loss=self.target_loss,
            target_accuracy=self.target_accuracy,
        )


@dg.asset(
    deps=[task_files, prompt_bank, base_model],
    partitions_def=TASKS,
    group_name="tuning",
    kinds={"torch", "mlflow"},
    owners=OWNERS,
    code_version="1",
    pool="training",
    # A refreshed bank is no reason to tune again what is tuned.
    tags={"maitre/kept-when-changed": "prompt_bank"},
)
def tuned_prompts(
    context: dg.AssetExecutionContext,
    config: TuneRequestConfig,
    home: DataHome,
    inputs: Inputs,
    language_model: LanguageModel,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """Look up a start, tune from it, evaluate, register the prompt and add it to the bank."""
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE
    from maitre.tuning.cold_comparison import compare_with_cold
    from maitre.tuning.start import find_start
    from maitre.tuning.tune import tune

    if _is_stored(context):
        # Its worker was lost after that: there is nothing left to do, or to report once more.
        return dg.MaterializeResult()
    held = current_run()
    task = inputs.task_source().read(context.partition_key)
    model = language_model.load()
    if config.lookup:
        held.enter("lookup")
        bank = load_bank(home, model)
        if config.compare_with_cold:
            # A prompt of the task itself would make the comparison a tautology.
            bank = bank.without([entry.entry_id for entry in bank if entry.task == task.name])
        start = find_start(
            model,
            task,
            bank,
            build_index(bank, FEATURE) if len(bank) else None,
            config=config.tune_config(),
            seed=config.seed,
        )
    else:
        start = _cold_start(model, config)
    context.log.info(f"start from {start.choice.name} in {start.seconds:.1f} s: {start.why}")
    settings: dict[str, Any] = {
        "config": config.tune_config(),
        "seed": config.seed,
        "on_iteration": _teller(context, config),
    }
    lines: dict[str, TuneResult] = {}
    if config.compare_with_cold:
        trial = compare_with_cold(model, task, lambda: start.choice.prompt, **settings)
        lines = {"cold": trial.cold, "from the bank": trial.warm}
        tuned = trial.warm
    else:
        held.enter("tuning", config.max_iterations)
        begin = start.choice.prompt
        tuning_inputs = TuningInputs(model, task, begin, config.tune_config(), config.seed)
        with held.form_group(tuning_inputs) as workers:
            tuned = tune(
                model,
                task,
                init=begin,
                should_stop=held.should_stop,
                checkpoint=held.checkpoint,
                workers=workers,
                **settings,
            )
        lines = {"from the bank": tuned}
    # From here on there are effects outside of the run: only if it is still this worker's.
    held.check_lease()
    held.enter("registering")
    with mlflow.run(context, name=f"tuned_prompts {task.name}") as run:
        figures = _figures(task, start, lines)
        run.params(config.model_dump() | {"task": task.name, "start": start.choice.name})
        run.metrics({name: float(value) for name, value in figures.items() if value is not None})
        for name, result in lines.items():
            prefix = name.replace(" ", "_")
            run.curve({f"{prefix}.eval_loss": [(i, loss) for i, loss, _ in result.curve]})
            run.curve({f"{prefix}.eval_accuracy": [(i, acc) for i, _, acc in result.curve]})
        figure = curves(
            {name: [(i, loss) for i, loss, _ in r.curve] for name, r in lines.items()},
            title=task.name,
            x="iteration",
            y="eval loss",
        )
        run.picture(figure, "curves.png")
        version = register_tuned_prompt(mlflow.store(), run, model, task, tuned, held.check_lease)
        add_to_bank(
            home, model, task, tuned, figures["iterations_cold"], run.run_id, held.check_lease
        )
        if config.has_target():
            saved = record_reuse(
                home,
                model,
                task,
                start,
                tuned,
                lines.get("cold"),
                run_id=run.run_id,
                check=held.check_lease,
            )
            figures["iterations_saved"] = saved
    context.log.info(
        f"{tuned.iterations} iterations, eval accuracy {tuned.eval_accuracy:.3f}, "
        f"registered as {version.name} version {version.version}"
    )
    return dg.MaterializeResult(
        metadata={
            **{name: value for name, value in figures.items() if value is not None},
            "start": start.choice.name,
            "start_reason": start.why,
            "stopped_because": tuned.stopped_because,
            "cold_reached": lines["cold"].reached if "cold" in lines else False,
            "curves": inline(figure, "eval loss by iteration"),
            "model_version": dg.MetadataValue.url(version.url),
            **run_links(run),
        }
    )


def _is_stored(context: dg.AssetExecutionContext) -> bool:
    """Whether this very run has stored its result of this task already."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    stored = (
        entry.dagster_event for entry in context.instance.all_logs(context.run.run_id, of_type=kind)
    )
    wanted = (context.asset_key, context.partition_key)
    return any((event.asset_key, event.partition) == wanted for event in stored if event)


def _cold_start(model: "BaseModel", config: TuneRequestConfig) -> "Lookup":
    """The random start of the seed, as a lookup that asked nobody."""
    from maitre.bank.lookup import Candidate, Lookup
    from maitre.tuning.soft_prompt import random_init

    prompt = random_init(model, config.virtual_tokens, config.seed)
    cold = Candidate("random", "random", prompt)
    return Lookup(cold, (), (cold,), 0, "no lookup was asked for", 0.0)


def _teller(context: dg.AssetExecutionContext, config: TuneRequestConfig) -> "Any":
    progress = LoggedProgress(context.log, "iterations")
    held = current_run()

    def tell(iteration: "IterationReport") -> None:
        held.step(iteration.iteration)
        loss = iteration.train_loss
        note = f"train loss {loss:.3f}" if loss is not None else ""
        if iteration.iteration < config.max_iterations:
            progress(iteration.iteration, config.max_iterations, note)

    return tell


def _figures(
    task: "Task", start: "Lookup", lines: "dict[str, TuneResult]"
) -> dict[str, int | float | None]:
    """The numbers of a tuning run; the cold ones are None where there was no cold run."""
    warm, cold = lines["from the bank"], lines.get("cold")
    return {
        "iterations": warm.iterations,
        "iterations_cold": cold.iterations if cold else None,
        "eval_loss": warm.eval_loss,
        "eval_accuracy": warm.eval_accuracy,
        "majority_share": task.majority_share(),
        "lookup_seconds": start.seconds,
        "lookup_evaluated": start.evaluated,
        "seconds": start.seconds + warm.seconds,
        "seconds_cold": cold.seconds if cold else None,
    }


@dg.asset_check(asset=tuned_prompts)
def tuned_prompt_beats_majority(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The newest tuned prompt answers more eval examples than the commonest answer would."""
    found = context.instance.fetch_materializations(tuned_prompts.key, limit=1)
    made = found.records[0].asset_materialization if found.records else None
    if made is None:
        return dg.AssetCheckResult(passed=False, description="nothing has been tuned yet")
    accuracy = float(made.metadata["eval_accuracy"].value)
    majority = float(made.metadata["majority_share"].value)
    return dg.AssetCheckResult(
        passed=accuracy > majority,
        metadata={
            "task": made.partition or "",
            "eval_accuracy": accuracy,
            "majority_share": majority,
        },
    )
