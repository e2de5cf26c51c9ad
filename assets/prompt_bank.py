"""`bank_prompts` and `prompt_bank`: past prompts, tuned, clustered and stored for the next task."""

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd

from assets.figures import inline, plane
from assets.inputs import base_model
from assets.ownership import OWNERS
from assets.tuning_tasks import TASK_TABLE, tuning_tasks
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking
from resources.progress import Progress

if TYPE_CHECKING:
    from maitre.bank.bank import PromptBank
    from maitre.bank.entry import BankEntry
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneConfig

PROMPTS = "bank_prompts/prompts.safetensors"
RESULTS = "bank_prompts/results.parquet"
BANK = "bank"


class BankTuneConfig(dg.Config):
    """How the bank's prompts are tuned: all tasks in one shared batch."""

    iterations: int = 30
    batch_size: int = 16
    learning_rate: float = 0.05
    virtual_tokens: int = 4
    seed: int = 0

    def tune_config(self) -> "TuneConfig":
        """The tuner's configuration; the eval split is measured at the beginning and the end."""
        from maitre.tuning.config import TuneConfig

        return TuneConfig(
            virtual_tokens=self.virtual_tokens,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_iterations=self.iterations,
            eval_every=None,
        )


@dg.asset(
    deps=[tuning_tasks, base_model],
    group_name="tuning",
    kinds={"torch", "safetensors"},
    owners=OWNERS,
    code_version="1",
    pool="training",
)
def bank_prompts(
    context: dg.AssetExecutionContext,
    config: BankTuneConfig,
    home: DataHome,
    inputs: Inputs,
    language_model: LanguageModel,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """A tuned prompt for each task of the bank; tasks that have not changed keep theirs."""
    from maitre.tuning.config import Progress as Iteration
    from maitre.tuning.tasks import find_task
    from maitre.tuning.tune import tune_many

    table = home.read_frame(TASK_TABLE).query("role == 'bank'")
    recipe = f"{language_model.fingerprint()} {json.dumps(config.model_dump(), sort_keys=True)}"
    wanted = {
        row["task"]: hashlib.sha256(f"{row['fingerprint']} {recipe}".encode()).hexdigest()
        for row in table.to_dict(orient="records")
    }
    prompts, results = _kept(home, wanted)
    fresh = [name for name in wanted if name not in prompts]
    with mlflow.run(context) as run:
        context.log.info(f"{len(fresh)} prompts to tune, {len(prompts)} as they were")
        if fresh:
            context.log.info("reading the examples and the model's keys and values of them")
            progress = Progress(context.log, f"iterations of {len(fresh)} tasks in one batch")

            def tell(iteration: Iteration) -> None:
                if iteration.task == fresh[-1] and iteration.train_loss is not None:
                    note = f"train loss of {iteration.task} {iteration.train_loss:.2f}"
                    progress(iteration.iteration, config.iterations, note)

            tuned = tune_many(
                language_model.load(),
                [find_task(inputs.tasks, name) for name in fresh],
                inits=[None] * len(fresh),
                config=config.tune_config(),
                seeds=[config.seed] * len(fresh),
                on_progress=tell,
            )
            for result in tuned:
                prompts[result.task] = result.prompt
                results[result.task] = {
                    "key": wanted[result.task],
                    "eval_loss": result.eval_loss,
                    "eval_accuracy": result.eval_accuracy,
                    "iterations": result.iterations,
                }
        outcome = (
            pd.DataFrame.from_dict(results, orient="index")
            .rename_axis("task")
            .reset_index()
            .merge(table[["task", "group", "majority_share"]], on="task")
            .sort_values("task")
        )
        _write_prompts(home, prompts)
        home.write_frame(RESULTS, outcome)
        run.params(config.model_dump() | {"base_model": language_model.path_or_id})
        accuracies = zip(outcome["task"], outcome["eval_accuracy"], strict=True)
        run.metrics({f"eval_accuracy.{task}": accuracy for task, accuracy in accuracies})
        margin = outcome["eval_accuracy"] - outcome["majority_share"]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(
                hashlib.sha256("".join(sorted(outcome["key"])).encode()).hexdigest()[:16]
            ),
            metadata={
                "prompts": len(outcome),
                "tuned_now": len(fresh),
                "median_eval_accuracy": float(outcome["eval_accuracy"].median()),
                "median_margin_over_majority": float(margin.median()),
                "table": dg.MetadataValue.md(outcome.drop(columns="key").to_markdown(index=False)),
                **run.metadata(),
            },
        )


def _kept(home: DataHome, wanted: dict[str, str]) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Prompts and results of an earlier run whose task, model and configuration are the same."""
    if not (home.exists(PROMPTS) and home.exists(RESULTS)):
        return {}, {}
    prompts = read_prompts(home)
    results = home.read_frame(RESULTS).set_index("task").to_dict(orient="index")
    same = [n for n in wanted if n in prompts and results.get(n, {}).get("key") == wanted[n]]
    fields = ("key", "eval_loss", "eval_accuracy", "iterations")
    return {n: prompts[n] for n in same}, {n: {f: results[n][f] for f in fields} for n in same}


def _write_prompts(home: DataHome, prompts: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    home.write_bytes(PROMPTS, save(dict(sorted(prompts.items()))))


def read_prompts(home: DataHome) -> dict[str, np.ndarray]:
    """The tuned prompts by task, each float32 `[virtual_tokens, hidden]`."""
    from safetensors.numpy import load

    return load(home.read_bytes(PROMPTS))


@dg.asset(
    deps=[bank_prompts, base_model],
    group_name="tuning",
    kinds={"parquet", "safetensors", "faiss"},
    owners=OWNERS,
    code_version="1",
    pool="training",
)
def prompt_bank(
    context: dg.AssetExecutionContext,
    home: DataHome,
    inputs: Inputs,
    language_model: LanguageModel,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """The bank with a feature vector for each prompt; prompts tuned on request stay in it."""
    from maitre.bank.index import build_index
    from maitre.bank.store import drop_entries
    from maitre.tuning.bank_entries import FEATURE, bank_entry, with_output_features
    from maitre.tuning.tasks import find_task

    model = language_model.load()
    url = bank_url(home, model)
    prompts = read_prompts(home)
    with mlflow.run(context) as run:
        entries = [
            bank_entry(
                model,
                find_task(inputs.tasks, row["task"]),
                prompts[row["task"]],
                created_at=datetime.now(UTC),
                eval_loss=row["eval_loss"],
                eval_accuracy=row["eval_accuracy"],
                run_id=run.run_id,
            )
            for row in home.read_frame(RESULTS).to_dict(orient="records")
        ]
        stored = load_bank(home, model)
        superseded = _superseded(stored, entries)
        bank, rejected = stored.without(superseded).add(entries)
        bank = with_output_features(bank, model)
        bank.save(url)
        drop_entries(url, superseded)
        index = build_index(bank, FEATURE)
        figure = plane(_map(bank), title="The bank in two dimensions (principal components)")
        run.metrics({"prompts": len(bank), "clusters": len(index.medoids)})
        run.picture(figure, "bank.png")
        context.log.info(
            f"{len(bank)} prompts in {len(index.medoids)} clusters, "
            f"{len(rejected)} near-duplicates left out, {len(superseded)} replaced"
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(hashlib.sha256(bank.prompts().tobytes()).hexdigest()[:16]),
            metadata={
                "prompts": len(bank),
                "clusters": len(index.medoids),
                "near_duplicates": len(rejected),
                "map": inline(figure, "prompts of the bank by group"),
                "url": dg.MetadataValue.path(url),
                **run.metadata(),
            },
        )


def bank_url(home: DataHome, model: "BaseModel") -> str:
    """Where the bank of a base model is kept: prompts fit no other model."""
    return home.url(f"{BANK}/{model.hash[:12]}")


def load_bank(home: DataHome, model: "BaseModel") -> "PromptBank":
    """The stored bank of a base model; an empty one when nothing has been stored."""
    from maitre.bank.bank import PromptBank

    return PromptBank.load(bank_url(home, model), missing_ok=True)


def _superseded(bank: "PromptBank", entries: "list[BankEntry]") -> list[str]:
    """Ids of prompts that an earlier refresh tuned for tasks that have a new prompt now."""
    new = {entry.task: entry.entry_id for entry in entries}
    return [
        entry.entry_id
        for entry in bank
        if entry.tenant is None and entry.entry_id != new.get(entry.task, entry.entry_id)
    ]


def _map(bank: "PromptBank") -> dict[str, list[tuple[float, float]]]:
    """First two principal components of the entries' features, by group."""
    from sklearn.decomposition import PCA

    from maitre.tuning.bank_entries import FEATURE

    if len(bank) < 2:
        return {}
    features = np.stack([entry.feature(FEATURE) for entry in bank])
    groups: dict[str, list[tuple[float, float]]] = {}
    for entry, (x, y) in zip(bank, PCA(2, random_state=0).fit_transform(features), strict=True):
        groups.setdefault(entry.group or "no group", []).append((float(x), float(y)))
    return groups


@dg.asset_check(asset=prompt_bank, blocking=True)
def bank_is_sound(home: DataHome, language_model: LanguageModel) -> dg.AssetCheckResult:
    """The bank reads back undamaged, is of this base model, and its index holds every prompt."""
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE

    model = language_model.load()
    bank = load_bank(home, model)
    bank.check_model(model.hash, model.tokenizer_hash)
    index = build_index(bank, FEATURE)
    return dg.AssetCheckResult(
        passed=len(index) == len(bank) > 0,
        metadata={"prompts": len(bank), "indexed": len(index), "clusters": len(index.medoids)},
    )
