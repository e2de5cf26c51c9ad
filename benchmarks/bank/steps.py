"""One tuning step with the prompt after a cached input, against peft on the same rows."""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.bank.cpu_time import cpu_seconds, median_cpu_seconds
from benchmarks.bank.inputs import add_input_options, load_model
from benchmarks.report import Figure, Report, progress
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import EncodedExample
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import InputCache
from maitre.tuning.soft_prompt import random_init


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--virtual-tokens", type=int, default=TuneConfig().virtual_tokens)


def measure(options: argparse.Namespace) -> Report:
    details = {"rows": options.rows, "virtual_tokens": options.virtual_tokens, "answer_tokens": 1}
    figures = steps(load_model(options), options.rows, options.virtual_tokens)
    return Report(figures, details)


def steps(model: BaseModel, rows: int, virtual_tokens: int) -> list[Figure]:
    """Return the CPU time of one step by input length: ours, and peft's on the same rows."""
    from peft import PromptTuningConfig, get_peft_model

    dtype = str(model.dtype).removeprefix("torch.")
    plain = BaseModel.load(Path(model.model.name_or_path), device="cpu", dtype=dtype)
    plain.model.set_attn_implementation("sdpa")
    peft_model = get_peft_model(
        plain.model,
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens),
    )
    generator = np.random.default_rng(0)
    figures = []
    for length in (32, 128, 512):
        examples = [
            EncodedExample(tuple(ids[:-1].tolist()), (int(ids[-1]),))
            for ids in generator.integers(3, 40_000, size=(rows, length + 1))
        ]
        cache = InputCache(model, examples, "suffix", 1 << 34, [range(rows)])
        with cpu_seconds() as filling:
            cache.batch(range(rows))
        prompt = torch.from_numpy(random_init(model, virtual_tokens, 0)).requires_grad_()

        def ours(cache: InputCache = cache, prompt: torch.Tensor = prompt) -> None:
            batch = cache.batch(range(rows))
            losses, _ = answer_losses(model, prompt.expand(rows, -1, -1), batch, "suffix")
            torch.autograd.grad(losses.mean(), prompt)

        ids = torch.tensor([example.input_ids + example.answer_ids for example in examples])
        labels = torch.full_like(ids, -100)
        labels[:, -1] = ids[:, -1]

        def theirs(ids: torch.Tensor = ids, labels: torch.Tensor = labels) -> None:
            seen = torch.ones_like(ids)
            peft_model(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
            peft_model.zero_grad()

        ours_s, theirs_s = median_cpu_seconds(ours), median_cpu_seconds(theirs)
        case = f"input of {length} tokens"
        figures += [
            Figure(f"{case}: step", ours_s, "CPU-s"),
            Figure(f"{case}: step of peft", theirs_s, "CPU-s"),
            Figure(f"{case}: peft / ours", theirs_s / ours_s),
            Figure(f"{case}: filling the cache once", filling[0], "CPU-s"),
        ]
        progress(f"{case}: {theirs_s / ours_s:.1f}")
    return figures
