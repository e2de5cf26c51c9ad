"""The smallest inputs that the whole graph runs on: a random model, word tasks, a few adapters."""

from pathlib import Path

import pandas as pd

from maitre.tuning.tasks import Example, Task
from tests.tiny_model import write_word_model

COLOURS = {"apple": "red", "rose": "red", "leaf": "green", "grass": "green", "sky": "blue"}
THINGS = {"sea": "blue", "sun": "warm", "ice": "cold", "fire": "warm", "snow": "cold"}
FRAMES = ("{}", "this {}", "the {} here", "is {} so", "a {} now", "one {}", "my {}", "big {}")
WORDS = sorted(
    {"<end>", "<unknown>", "apple", "Paris", "seventeen", "which", "answer"}
    | set(COLOURS) | set(THINGS) | set(COLOURS.values()) | set(THINGS.values())
    | {word for frame in FRAMES for word in frame.split()}
)  # fmt: skip


def write_model(folder: Path) -> Path:
    """A random two-layer Llama with a tokenizer of whole words."""
    return write_word_model(folder, WORDS)


def write_tasks(folder: Path, names: tuple[str, ...]) -> Path:
    """Tasks of naming a property, each with its own part of the frames for training."""
    answers = COLOURS | THINGS
    for number, name in enumerate(names):
        lines = [
            (index, Example(frame.format(thing), answer))
            for thing, answer in answers.items()
            for index, frame in enumerate(FRAMES)
        ]
        held_out = {number % len(FRAMES), (number + 3) % len(FRAMES)}
        Task(
            name=name,
            description=f"a property of a thing, number {number}",
            instruction="which answer",
            metric="accuracy",
            group="even" if number % 2 == 0 else "odd",
            train=tuple(line for index, line in lines if index not in held_out),
            eval=tuple(line for index, line in lines if index in held_out),
        ).save(folder / name)
    return folder


def write_adapters(path: Path, base_model: str, count: int = 24) -> Path:
    """A catalogue of small adapters of two ranks."""
    rows = [
        {"adapter": f"a{i}", "base_model": base_model, "rank": 8 if i % 3 else 16, "rate_rps": 0.1}
        for i in range(count)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path
