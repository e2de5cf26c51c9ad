"""One tuning step with the prompt after a cached input, against peft on the same rows."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.bank.cpu_time import cpu_seconds, median_cpu_seconds
from maitre.tuning.base_model import BaseModel
from maitre.tuning.encoding import EncodedExample
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import InputCache
from maitre.tuning.soft_prompt import random_init


def steps(model: BaseModel, rows: int, virtual_tokens: int) -> list[dict[str, float]]:
    """CPU-seconds of one step by input length: ours, and peft's prompt tuning on the same rows."""
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
    print(f"one step, {rows} rows, {virtual_tokens} virtual tokens, one-token answers (CPU-s)")
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
        print(
            f"  input {length:4d} tokens: ours {ours_s:.3f}, peft {theirs_s:.3f}, "
            f"{theirs_s / ours_s:.1f}x cheaper; filling the cache once {filling[0]:.3f}",
            flush=True,
        )
        figures.append(
            {"input_tokens": length, "ours_cpu_s": ours_s, "peft_cpu_s": theirs_s}
            | {"cheaper": theirs_s / ours_s, "cache_filling_cpu_s": filling[0]}
        )
    return figures
