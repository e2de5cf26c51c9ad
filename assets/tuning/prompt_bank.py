"""`prompt_bank`: past prompts, clustered and stored for the next task."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

from assets.shared.figures import inline, plane
from assets.shared.inputs import OWNERS, base_model
from assets.shared.retries import retry_outages
from assets.tuning.bank_prompts import bank_prompts, read_bank_prompts
from maitre import fingerprints
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking, run_links

if TYPE_CHECKING:
    from maitre.bank.bank import PromptBank
    from maitre.bank.entry import BankEntry
    from maitre.tuning.base_model import BaseModel


class BankConfig(dg.Config):
    """`capacity`: the most prompts to keep; those with the least measured benefit are dropped."""

    capacity: int = 3000


@dg.asset(
    deps=[bank_prompts, base_model],
    group_name="tuning",
    kinds={"parquet", "safetensors", "faiss"},
    owners=OWNERS,
    code_version="2",
    pool="training",
)
@retry_outages
def prompt_bank(
    context: dg.AssetExecutionContext,
    config: BankConfig,
    home: DataHome,
    inputs: Inputs,
    language_model: LanguageModel,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """Store the tuned prompts with their feature vectors; keep the prompts tuned on request."""
    from maitre.bank.index import build_index
    from maitre.bank.store import drop_entries
    from maitre.tuning.bank_entries import FEATURE, with_output_features

    model = language_model.load()
    url = bank_url(home, model)
    with mlflow.run(context) as run:
        stored = load_bank(home, model)
        entries = _entries(home, inputs, model, run.run_id, stored)
        superseded = _replaced_entries(stored, entries)
        grown, rejected = stored.without(superseded).add(entries)
        bank = with_output_features(grown.evicted_to(config.capacity), model)
        evicted = [entry.entry_id for entry in grown if entry.entry_id not in bank]
        bank.save(url)
        if dropped := [*superseded, *(name for name in evicted if name in stored)]:
            drop_entries(url, dropped)
        index = build_index(bank, FEATURE)
        figure = plane(
            _principal_components(bank), title="The bank in two dimensions (principal components)"
        )
        figures = {
            "prompts": len(bank),
            "clusters": len(index.medoids),
            "uses": sum(entry.uses for entry in bank),
            "iterations_saved": bank.iterations_saved(),
            "evicted": len(evicted),
        }
        if (hit_rate := bank.hit_rate()) is not None:
            figures["hit_rate"] = hit_rate
        run.metrics(figures)
        run.picture(figure, "bank.png")
        context.log.info(
            f"{len(bank)} prompts in {len(index.medoids)} clusters; {len(rejected)} near duplicates"
            f" left out, {len(superseded)} replaced, {len(evicted)} evicted"
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprints.of_bytes(bank.prompts().tobytes())),
            metadata={
                **figures,
                "near_duplicates": len(rejected),
                "map": inline(figure, "prompts of the bank by group"),
                "url": dg.MetadataValue.path(url),
                **run_links(run),
            },
        )


def _entries(
    home: DataHome, inputs: Inputs, model: "BaseModel", run_id: str, stored: "PromptBank"
) -> "list[BankEntry]":
    """Return an entry for each prompt that `bank_prompts` has tuned; keep a known entry's use."""
    from maitre.tuning.bank_entries import bank_entry

    entries = [
        bank_entry(
            model,
            inputs.task_source().read(task),
            prompt,
            created_at=datetime.now(UTC),
            eval_loss=result.eval_loss,
            eval_accuracy=result.eval_accuracy,
            run_id=run_id,
        )
        for task, (prompt, result) in read_bank_prompts(home).items()
    ]
    known = {entry.entry_id: entry for entry in stored}
    return [
        replace(entry, uses=old.uses, benefit=old.benefit, created_at=old.created_at)
        if (old := known.get(entry.entry_id))
        else entry
        for entry in entries
    ]


def bank_url(home: DataHome, model: "BaseModel") -> str:
    """Return the URL of a base model's bank: prompts fit no other model."""
    return home.bank_url(model.hash, model.tokenizer_hash)


def load_bank(home: DataHome, model: "BaseModel") -> "PromptBank":
    """Return the stored bank of a base model, an empty one where nothing is stored."""
    return home.bank(model.hash, model.tokenizer_hash)


def _replaced_entries(bank: "PromptBank", entries: "list[BankEntry]") -> list[str]:
    """Return the ids of prompts from an earlier refresh whose tasks have a new prompt now."""
    new = {entry.task: entry.entry_id for entry in entries}
    return [
        entry.entry_id
        for entry in bank
        if entry.tenant is None and entry.entry_id != new.get(entry.task, entry.entry_id)
    ]


def _principal_components(bank: "PromptBank") -> dict[str, list[tuple[float, float]]]:
    """Return the first two principal components of the entries' features, by group."""
    from sklearn.decomposition import PCA

    from maitre.tuning.bank_entries import FEATURE

    if len(bank) < 2:
        return {}
    features = np.stack([entry.feature(FEATURE) for entry in bank])
    groups: dict[str, list[tuple[float, float]]] = {}
    for entry, (x, y) in zip(bank, PCA(2, random_state=0).fit_transform(features), strict=True):
        groups.setdefault(entry.group or "no group", []).append((float(x), float(y)))
    return groups
