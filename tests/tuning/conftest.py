"""A tiny random model with a tokenizer of its own, and a task that it can learn."""

from pathlib import Path

import pytest
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.tasks import Example, Task
from tests.tiny_model import write_word_model

WORDS = (
    *("<end>", "<unknown>", "red", "green", "blue", "apple", "leaf", "sky", "rose", "grass", "sea"),
    *("yes", "no", "warm", "cold", "big", "small", "what", "colour", "is", "this", "thing", "in"),
    *("the", "house", "user", "assistant"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def write_tiny_model(folder: Path, seed: int = 0, chat: bool = True) -> Path:
    """A random two-layer Llama of hidden size 32 and a tokenizer of whole words, as a folder."""
    return write_word_model(folder, WORDS, seed, CHAT_TEMPLATE if chat else None)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads only wait for each other at this size, above all beside other processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> BaseModel:
    return BaseModel.load(tiny_folder, device="cpu", dtype="float32")


def examples(things: str, answer: str, frame: str = "{}") -> list[Example]:
    return [Example(frame.format(thing), answer) for thing in things.split()]


@pytest.fixture
def colours() -> Task:
    """Which colour? Inputs of several lengths."""
    return Task(
        name="colours",
        description="the colour of a thing",
        instruction="what colour is this",
        metric="accuracy",
        group="colour",
        train=(*examples("apple rose", "red"), *examples("leaf", "green", "the {}")),
        eval=(*examples("apple", "red", "in the {}"), *examples("grass", "green", "the big {}")),
    )


@pytest.fixture
def sizes() -> Task:
    """Two words to answer, so that generation must learn where to stop."""
    return Task(
        name="sizes",
        description="size",
        instruction=None,
        metric="loss",
        group=None,
        train=(Example("apple", "small thing"), Example("the house", "big")),
        eval=(Example("the sky", "big"), Example("rose", "small thing")),
    )
