"""What a prompt makes the model say: its answers' distribution over a few probe inputs."""

from collections.abc import Sequence

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel

# Neutral inputs; what a prompt answers to them tells for which kind of task it was tuned.
PROBES = ("apple", "Paris", "seventeen", "they were walking", "a terrible day", "4096")
DIMENSIONS_PER_PROBE = 32
_BATCH_ROWS = 64


@torch.inference_mode()
def prompt_features(
    model: BaseModel, prompts: np.ndarray, probes: Sequence[str] = PROBES
) -> np.ndarray:
    """Features of suffix prompts `[n, virtual_tokens, hidden]`: float32 `[n, features]`.

    For each probe the square roots of the next-token probabilities, projected at random to
    `DIMENSIONS_PER_PROBE`: Euclidean distance between features is, but for the projection, the
    Hellinger distance between what two prompts make the model say.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.embeddings.shape[0]
    projection = torch.randn(vocabulary, DIMENSIONS_PER_PROBE, generator=generator)
    projection = (projection / DIMENSIONS_PER_PROBE**0.5).to(model.device)
    soft = torch.from_numpy(np.asarray(prompts, dtype=np.float32)).to(model.device, model.dtype)
    columns = []
    for probe in probes:
        ids = torch.tensor(model.tokenizer(probe).input_ids, device=model.device)
        text = model.embeddings[ids]
        parts = []
        for start in range(0, len(soft), _BATCH_ROWS):
            rows = soft[start : start + _BATCH_ROWS]
            fed = torch.cat([text.expand(len(rows), -1, -1), rows], dim=1)
            logits = model.model(inputs_embeds=fed, logits_to_keep=1).logits[:, -1].float()
            parts.append(torch.softmax(logits, dim=-1).sqrt() @ projection)
        columns.append(torch.cat(parts))
    return torch.cat(columns, dim=1).cpu().numpy().astype(np.float32)
