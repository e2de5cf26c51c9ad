"""Each decoder family of transformers, tiny: Maitre's losses beside the model's own.

A family is `equal`, `refused` at load in one line, or an `inner error`. `not built` are families
whose tiny configuration this benchmark cannot make, or whose model transformers cannot save and
load: they are not counted. `--only NAME ...` goes through some families.
"""

import argparse
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.report import Figure, Reach, Report, progress
from maitre.errors import UserError
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position
from maitre.tuning.encoding import encode
from maitre.tuning.evaluate import evaluate
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Example, Task

VOCABULARY = 128
LETTERS = "abcdefghij"
MOST_PARAMETERS = 30_000_000
FAMILY_SECONDS = 120
TOLERANCE = 2e-3
POSITIONS: tuple[Position, Position] = ("suffix", "prefix")

# By the names that configurations use; a name that a configuration lacks is left out.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "n_embed": 64,
    "dim_model": 64,
    "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "ffn_dim": 128,
    "d_ff": 128,
    "n_inner": 128,
    "decoder_ffn_dim": 128,
    "encoder_ffn_dim": 128,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "rotary_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "is_decoder": True,
    "sliding_window": 8,
}
# Some constraints that no rule finds.
FURTHER: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": 16},
    {"head_dim": 16, "num_key_value_heads": 4},
    {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1},
    {"head_dim": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    {"num_hidden_layers": 4, "head_dim": 16},
    {"num_hidden_layers": 8, "head_dim": 16},
    {"sliding_window": None, "head_dim": 16},
    {
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "qk_head_dim": 24,
        "num_key_value_heads": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_num_heads": 8},
    {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 8, "expand": 2},
    {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 12},
)


@dataclass(frozen=True)
class Finding:
    """What came of a family: `equal`, `refused`, `inner error`, `different` or `not built`."""

    family: str
    outcome: str
    line: str


class TookTooLongError(Exception):
    """A family took more time than it has."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these families")


def measure(options: argparse.Namespace) -> Report:
    """Go through the families; print one line each, and return the counts."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    findings = []
    for family in options.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        one = look_at(family)
        findings.append(one)
        progress(f"{one.family:28} {one.outcome:12} {one.line}")
    counts = Counter(one.outcome for one in findings)
    built = len(findings) - counts["not built"]
    good = counts["equal"] + counts["refused"]
    figures = [
        Figure("equal to transformers", counts["equal"], "families"),
        Figure("refused at load in one line", counts["refused"], "families"),
        Figure("inner errors", counts["inner error"], "families", Reach(0, 0)),
        Figure("other losses", counts["different"], "families", Reach(0, 0)),
        Figure("equal or refused, of those built", good, "families", Reach(built, built)),
        Figure("not built tiny", counts["not built"], "families"),
    ]
    return Report(figures, {"families": [asdict(one) for one in findings]})


def look_at(family: str) -> Finding:
    """Build a tiny model of the family and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        try:
            with time_limit(FAMILY_SECONDS):
                write_tiny(family, folder)
        except Exception as error:
            return Finding(family, "not built", one_line(error))
        try:
            with time_limit(FAMILY_SECONDS):
                return compare(family, folder)
        except UserError as error:
            text = str(error)
            is_one_line = "\n" not in text
            return Finding(family, "refused" if is_one_line else "inner error", one_line(error))
        except Exception as error:
            return Finding(family, "inner error", one_line(error))


def write_tiny(family: str, folder: Path) -> None:
    """Write a tiny model of the family, with a tokenizer of two-letter words."""
    kind = transformers.AutoConfig.for_model(family).__class__
    failures = []
    for further in FURTHER:
        torch.manual_seed(0)
        try:
            config = tiny_config(kind, further)
            with torch.device("meta"):
                sketch = transformers.AutoModelForCausalLM.from_config(config)
            parameters = sum(one.numel() for one in sketch.parameters())
            if parameters > MOST_PARAMETERS:
                raise ValueError(f"{parameters} parameters")
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.eval()
            with torch.no_grad():
                for value in model.parameters():
                    if not bool(torch.isfinite(value).all()):
                        torch.nn.init.normal_(value, std=0.2)
                model(input_ids=torch.arange(1, 7)[None])
            model.save_pretrained(folder)
            transformers.AutoModelForCausalLM.from_pretrained(folder)
        except TookTooLongError:
            raise
        except Exception as error:
            failures.append(one_line(error))
            continue
        write_tokenizer(folder)
        return
    raise ValueError(failures[0])


def tiny_config(kind: type[Any], further: dict[str, Any]) -> Any:
    """Return a configuration with small sizes, also in the part for text."""
    sizes = SIZES | further
    known = kind()
    text_name = next((n for n in ("text_config", "decoder") if hasattr(known, n)), None)
    if text_name is None or not hasattr(getattr(known, text_name), "to_dict"):
        return kind(**names_of(known, sizes))
    text = getattr(known, text_name)
    return kind(**{text_name: type(text)(**names_of(text, sizes)).to_dict()})


def names_of(config: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return those of the sizes that a configuration knows by their own names."""
    known = config.to_dict()
    chosen = {name: value for name, value in sizes.items() if name in known}
    for name in ("layer_types", "attention_types"):
        layers = next((v for k, v in chosen.items() if k in ("num_hidden_layers", "num_layers")), 2)
        if name == "layer_types" and isinstance(known.get(name), list):
            kinds = list(dict.fromkeys(known[name]))
            chosen[name] = [kinds[place % len(kinds)] for place in range(layers)]
    if "attention_types" in known:
        chosen["attention_types"] = [[["global", "local"], 1]]
        chosen["window_size"] = 8
    return chosen


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer, one token per two-letter word of `numbered_task`.

    Some families (Qwen) have a tokenizer class that reads no other kind.
    """
    alphabet = ["Ġ", *LETTERS]
    pairs = [f"{a}{b}" for a in LETTERS for b in LETTERS][: VOCABULARY - len(alphabet) - 1]
    vocabulary = {token: place for place, token in enumerate(["<end>", *alphabet, *pairs])}
    merges = [(pair[0], pair[1]) for pair in pairs]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)


def compare(family: str, folder: Path) -> Finding:
    """Load the folder and compare the losses of a soft prompt at both positions."""
    model = BaseModel.load(folder, device="cpu", dtype="float32")
    own = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **attention_of(model)
    ).eval()
    task = numbered_task()
    prompt = random_init(model, 4, 0)
    lines = []
    for position in POSITIONS:
        found = evaluate(model, task, prompt, position).loss
        wanted = own_loss(own, model, task, prompt, position)
        if not abs(found - wanted) < TOLERANCE:
            line = f"{position}: loss {found:.4f}, transformers' own is {wanted:.4f}"
            return Finding(family, "different", line)
        lines.append(f"{position} {found:.4f}")
    way = "fast" if model.passes.is_fast else f"plain, {model.passes.attention}"
    return Finding(family, "equal", f"{', '.join(lines)} ({way})")


def attention_of(model: BaseModel) -> dict[str, str]:
    """Return the argument for eager attention, where the model knows it."""
    return {"attn_implementation": "eager"} if model.model._can_set_attn_implementation() else {}


@torch.no_grad()
def own_loss(
    own: Any, model: BaseModel, task: Task, prompt: np.ndarray, position: Position
) -> float:
    """Return transformers' own mean loss of the eval split, each row alone."""
    embed = own.get_input_embeddings()
    soft = torch.from_numpy(np.asarray(prompt))
    losses = []
    for row in encode(model, task, 4).eval:
        words, answer = embed(torch.tensor(row.input_ids)), torch.tensor(row.answer_ids)
        parts = [words, soft] if position == "suffix" else [soft, words]
        logits = own(inputs_embeds=torch.cat([*parts, embed(answer)])[None]).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits[-len(answer) - 1 : -1], answer)
        losses.append(loss.item())
    return float(np.mean(losses))


def word(number: int) -> str:
    """Return a word of two letters; there are a hundred."""
    return LETTERS[number // 10 % 10] + LETTERS[number % 10]


def numbered_task() -> Task:
    """Return a task whose inputs have several lengths, longer than the windows."""

    def rows(first: int) -> tuple[Example, ...]:
        return tuple(
            Example(
                " ".join(word(first + row * 7 + place) for place in range(6 + 3 * row)),
                " ".join(word(place) for place in range(1 + row % 3)),
            )
            for row in range(6)
        )

    return Task("words", "words", None, "accuracy", None, rows(0), rows(40))


def one_line(error: BaseException) -> str:
    """Return the error's class and its text on one line."""
    text = " ".join(str(error).split())
    return text[:160] if isinstance(error, UserError) else f"{type(error).__name__}: {text}"[:160]


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `TookTooLongError` when the block takes longer."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TookTooLongError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
