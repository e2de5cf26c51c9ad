"""`tuned_prompts`: a task tuned on request, from the best start that the bank has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.shared.check_text import description
from assets.shared.figures import curves, inline
from assets.shared.inputs import OWNERS, base_model, task_files
from assets.tuning.prompt_bank import load_bank, prompt_bank
from assets.tuning.record_reuse import record_reuse
from assets.tuning.tuned_prompt_record import add_to_bank
from maitre.processes.outages import wait_out_outages
from maitre.progress import LoggedProgress
from maitre.requests.request import DEFAULT_ITERATIONS
from maitre.tenants import TENANT_TAG, owner_of_prompts
from maitre.tracking.tuned_prompt import promote_if_better, register_tuned_prompt
from maitre.workers.process.run_context import TuningInputs, current_run
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking, run_links

if TYPE_CHECKING:
    from maitre.bank.lookup import Lookup
    from maitre.tracking.store import RegisteredVersion, TrackedRun
    from maitre.tracking.tuned_prompt import Promotion
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import IterationReport, TuneConfig, TuneResult
    from maitre.tuning.tasks import Task

COLD, TUNED = "cold", "from the bank"
"""The names of a task's runs in curves and figures."""
TASKS_NAME = "tasks"
TASKS = dg.DynamicPartitionsDefinition(name=TASKS_NAME)


class TuneRequestConfig(dg.Config):
    """How far to tune. Without a target the run takes `max_iterations` and keeps the best prompt.

    `compare_with_cold` sets the target by a cold run with another seed and also tunes cold to that
    target, which shows the saving and costs two more runs. Without `lookup` the start is cold.
    While MLflow does not answer, a tuned prompt waits for `registration_limit_s` at most.
    """

    target_loss: float | None = None
    target_accuracy: float | None = None
    max_iterations: int = DEFAULT_ITERATIONS
    batch_size: int = 16
    learning_rate: float = 0.03
    virtual_tokens: int = 4
    seed: int = 0
    compare_with_cold: bool = False
    lookup: bool = True
    registration_limit_s: float = 3600.0

    def has_target(self) -> bool:
        """Return whether the number of iterations measures how good the start was."""
        targets = (self.target_loss, self.target_accuracy)
        return self.compare_with_cold or any(target is not None for target in targets)

    def tune_config(self) -> "TuneConfig":
        """Return the tuner's configuration."""
        from maitre.tuning.config import TuneConfig

        return TuneConfig(
            virtual_tokens=self.virtual_tokens,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_iterations=self.max_iterations,
            target_loss=self.target_loss,
            target_accuracy=self.target_accuracy,
        )


@dataclass(frozen=True)
class _Registered:
    """A prompt in the model registry, with the figures and the picture of its tuning."""

    run: "TrackedRun"
    version: "RegisteredVersion"
    promotion: "Promotion"
    figures: dict[str, int | float | None]
    picture: dg.MetadataValue


@dg.asset(
    deps=[task_files, prompt_bank, base_model],
    partitions_def=TASKS,
    group_name="tuning",
    kinds={"torch", "mlflow"},
    owners=OWNERS,
    code_version="1",
    pool="training",
    # A refreshed bank does not make a tuned prompt stale.
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
    if _is_stored(context):
        # Its worker was lost after that: there is nothing left to do, or to report once more.
        return dg.MaterializeResult()
    worker_run = current_run()
    task = inputs.task_source().read(context.partition_key)
    model = language_model.load()
    tenant = owner_of_prompts(context.run.tags.get(TENANT_TAG))
    if outage := mlflow.store().outage():
        context.log.warning(f"{outage}; the prompt is tuned now and registered when MLflow answers")
    start = _start(config, home, model, task, tenant)
    context.log.info(f"start from {start.choice.name} in {start.seconds:.1f} s: {start.why}")
    results = _tune(context, config, model, task, start, tenant)
    # From here on there are effects outside of the run: only if it is still this worker's.
    worker_run.check_lease()
    worker_run.enter("registering")

    def register() -> _Registered:
        with mlflow.run(context, name=f"tuned_prompts {task.name}") as run:
            run.params(
                config.model_dump()
                | {
                    "task": task.name,
                    "task_fingerprint": task.fingerprint(),
                    "base_model": language_model.path_or_id,
                    "base_model_name": model.name,
                    "base_model_hash": model.hash,
                    "start": start.choice.name,
                    "stopped_because": results[TUNED].stopped_because,
                }
            )
            figures = _figures(task, start, results)
            picture = _record(task, figures, results, run)
            version = register_tuned_prompt(
                mlflow.store(),
                run,
                model,
                task,
                results[TUNED],
                base_model=language_model.path_or_id,
                tenant=tenant,
                check=worker_run.check_lease,
            )
            worker_run.check_lease()
            promotion = promote_if_better(mlflow.store(), version, model, task, results[TUNED])
            figures |= _keep_in_bank(config, home, model, task, start, results, run.run_id, tenant)
        return _Registered(run, version, promotion, figures, picture)

    registered = wait_out_outages(
        register,
        limit_s=config.registration_limit_s,
        report=lambda pause: context.log.warning(f"the prompt waits to be registered: {pause}"),
        check=worker_run.check_lease,
    )
    version, promotion = registered.version, registered.promotion
    figures = registered.figures
    tuned, cold = results[TUNED], results.get(COLD)
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
            "cold_reached": cold.reached if cold else False,
            "curves": registered.picture,
            "model_version": dg.MetadataValue.url(version.url),
            "champion": promotion.is_champion,
            "champion_because": promotion.why,
            **run_links(registered.run),
        }
    )


def _start(
    config: TuneRequestConfig,
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    tenant: str | None,
) -> "Lookup":
    """Return the start that the bank offers the tenant; a random one without a lookup."""
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE
    from maitre.tuning.start import find_start, random_start

    if not config.lookup:
        return random_start(model, config.virtual_tokens, config.seed)
    current_run().enter("lookup")
    bank = load_bank(home, model).visible_to(tenant)
    if config.compare_with_cold:
        # A prompt of the task itself would make the comparison a tautology.
        bank = bank.without([entry.entry_id for entry in bank if entry.task == task.name])
    index = build_index(bank, FEATURE) if len(bank) else None
    return find_start(
        model, task, bank, index, config=config.tune_config(), seed=config.seed, tenant=tenant
    )


def _tune(
    context: dg.AssetExecutionContext,
    config: TuneRequestConfig,
    model: "BaseModel",
    task: "Task",
    start: "Lookup",
    tenant: str | None,
) -> "dict[str, TuneResult]":
    """Tune from the start with the workers of this run; compare with a cold run if asked to."""
    from maitre.tuning.cold_comparison import compare_with_cold
    from maitre.tuning.tune import tune

    worker_run = current_run()
    report = _report_iterations(context, config)
    settings: dict[str, Any] = {
        "config": config.tune_config(),
        "seed": config.seed,
        "on_iteration": report,
    }
    if config.compare_with_cold:
        found = compare_with_cold(model, task, lambda: start.choice.prompt, **settings)
        return {COLD: found.cold, TUNED: found.warm}
    worker_run.enter("tuning", config.max_iterations)
    begin = start.choice.prompt
    tuning_inputs = TuningInputs(model, task, begin, config.tune_config(), config.seed, tenant)
    with worker_run.form_group(tuning_inputs) as workers:
        tuned = tune(
            model,
            task,
            init=begin,
            should_stop=worker_run.should_stop,
            checkpoint=worker_run.checkpoint,
            workers=workers,
            tenant=tenant,
            **settings,
        )
    return {TUNED: tuned}


def _record(
    task: "Task",
    figures: dict[str, int | float | None],
    results: "dict[str, TuneResult]",
    run: "TrackedRun",
) -> dg.MetadataValue:
    """Record figures and curves in the MLflow run; return the picture of the curves."""
    run.metrics({name: float(value) for name, value in figures.items() if value is not None})
    for name, result in results.items():
        prefix = name.replace(" ", "_")
        run.curve({f"{prefix}.eval_loss": [(i, loss) for i, loss, _ in result.curve]})
        run.curve({f"{prefix}.eval_accuracy": [(i, acc) for i, _, acc in result.curve]})
    figure = curves(
        {name: [(i, loss) for i, loss, _ in r.curve] for name, r in results.items()},
        title=task.name,
        x="iteration",
        y="eval loss",
    )
    run.picture(figure, "curves.png")
    return inline(figure, "eval loss by iteration")


def _keep_in_bank(
    config: TuneRequestConfig,
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    start: "Lookup",
    results: "dict[str, TuneResult]",
    run_id: str,
    tenant: str | None,
) -> dict[str, float | None]:
    """Add the prompt to the bank and credit the entry that it began from; return the saving."""
    check = current_run().check_lease
    tuned, cold = results[TUNED], results.get(COLD)
    cold_iterations = cold.iterations if cold else None
    add_to_bank(home, model, task, tuned, cold_iterations, run_id, tenant, check)
    if not config.has_target():
        return {}
    saved = record_reuse(
        home, model, task, start, tuned, cold, run_id=run_id, tenant=tenant, check=check
    )
    return {"iterations_saved": saved}


def _is_stored(context: dg.AssetExecutionContext) -> bool:
    """Return whether this run has already stored its result for this task."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    stored = (
        entry.dagster_event for entry in context.instance.all_logs(context.run.run_id, of_type=kind)
    )
    wanted = (context.asset_key, context.partition_key)
    return any((event.asset_key, event.partition) == wanted for event in stored if event)


def _report_iterations(
    context: dg.AssetExecutionContext, config: TuneRequestConfig
) -> "Callable[[IterationReport], None]":
    """Return a function to call after each iteration; it reports to the worker and the log."""
    progress = LoggedProgress(context.log, "iterations")
    worker_run = current_run()

    def report(iteration: "IterationReport") -> None:
        worker_run.step(iteration.iteration)
        loss = iteration.train_loss
        note = f"train loss {loss:.3f}" if loss is not None else ""
        if iteration.iteration < config.max_iterations:
            progress(iteration.iteration, config.max_iterations, note)

    return report


def _figures(
    task: "Task", start: "Lookup", results: "dict[str, TuneResult]"
) -> dict[str, int | float | None]:
    """Return the numbers of a tuning run; the cold ones are None without a cold run."""
    warm, cold = results[TUNED], results.get(COLD)
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
    """Compare the newest tuned prompt with always giving the most frequent answer."""
    found = context.instance.fetch_materializations(tuned_prompts.key, limit=1)
    made = found.records[0].asset_materialization if found.records else None
    if made is None:
        return dg.AssetCheckResult(
            passed=False, description="no prompt is tuned yet; run maitre tune TASK"
        )
    accuracy = float(made.metadata["eval_accuracy"].value)
    majority = float(made.metadata["majority_share"].value)
    passed = accuracy > majority
    return dg.AssetCheckResult(
        passed=passed,
        description=description(
            passed,
            f"{made.partition}: accuracy {accuracy:.3f}, most frequent answer {majority:.3f}",
            "tune with more iterations (max_iterations), or look at the task's examples",
        ),
        metadata={
            "task": made.partition or "",
            "eval_accuracy": accuracy,
            "majority_share": majority,
        },
    )
