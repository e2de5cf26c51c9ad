"""Checks of the bank: the stored file is intact, and the two-layer lookup finds a best entry."""

import time

import dagster as dg

from assets.shared.check_text import description
from assets.tuning.prompt_bank import load_bank, prompt_bank
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel

QUALITY_SEED = 0
LEAST_SHARE = 0.95


@dg.asset_check(asset=prompt_bank, blocking=True)
def bank_is_sound(home: DataHome, language_model: LanguageModel) -> dg.AssetCheckResult:
    """Read the bank back: it fits this base model, and its index holds every prompt."""
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE

    model = language_model.load()
    bank = load_bank(home, model)
    bank.check_model(model.hash, model.tokenizer_hash)
    index = build_index(bank, FEATURE)
    passed = len(index) == len(bank) > 0
    return dg.AssetCheckResult(
        passed=passed,
        description=description(
            passed,
            f"{len(bank)} prompts, {len(index)} of them indexed",
            "materialise bank_prompts and prompt_bank again",
        ),
        metadata={"prompts": len(bank), "indexed": len(index), "clusters": len(index.medoids)},
    )


@dg.asset_check(asset=prompt_bank)
def bank_quality(
    home: DataHome, inputs: Inputs, language_model: LanguageModel
) -> dg.AssetCheckResult:
    """Compare the two-layer lookup with scoring every entry, on a sample of tasks.

    The lookups here have no time limit, so the result does not depend on the machine's load.
    """
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE
    from maitre.tuning.bank_quality import WITHIN, sampled_quality

    names = sorted(home.task_table()["task"])
    model = language_model.load()
    found = sampled_quality(
        model,
        [inputs.task_source().read(name) for name in names],
        load_bank(home, model),
        lambda bank: build_index(bank, FEATURE),
        seed=QUALITY_SEED,
        clock=time.monotonic,
    )
    as_good = sum(one.is_as_good for one in found)
    passed = bool(found) and as_good >= LEAST_SHARE * len(found)
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=description(
            passed,
            f"{as_good} of {len(found)} sampled lookups chose within {WITHIN:.0%} of the best loss "
            f"({LEAST_SHARE:.0%} or more pass)",
            "tuning still works and takes more iterations; tune more tasks of the same kinds into "
            "the bank, and see the worst task in the check's metadata",
        ),
        metadata={
            "tasks": ", ".join(one.task for one in found),
            "worst_excess": max((one.excess for one in found), default=0.0),
            "share_of_the_work": sum(one.evaluated for one in found)
            / max(1, sum(one.evaluated_exhaustively for one in found)),
            "seconds": sum(one.seconds for one in found),
        },
    )
