"""Examples as token ids: chats, ends of answers, and what cannot be tokenised."""

from pathlib import Path

import pytest

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig, TuningInputError
from maitre.tuning.encoding import encode
from maitre.tuning.tasks import Example, Message, Task
from maitre.tuning.tune import tune

from .conftest import WORDS, write_tiny_model


def task_of(*train: Example) -> Task:
    return Task("t", "d", None, "loss", None, train, (Example("cold sea", "blue"),))


def words(ids: tuple[int, ...]) -> str:
    return " ".join(WORDS[token] for token in ids)


def chat(question: str, answer: str) -> Example:
    messages = (Message("user", question), Message("assistant", answer))
    return Example(question, answer, messages)


def test_single_tokens_stand_alone_and_longer_answers_end(tiny: BaseModel) -> None:
    labels = encode(tiny, task_of(Example("apple", "red")), 2)
    assert words(labels.train[0].answer_ids) == "red"
    longer = encode(tiny, task_of(Example("apple", "red"), Example("sky", "big blue")), 2)
    assert [words(row.answer_ids) for row in longer.train] == ["red <end>", "big blue <end>"]
    assert words(longer.eval[0].answer_ids) == "blue <end>"


def test_chats_go_through_the_template_and_can_be_tuned(tiny: BaseModel) -> None:
    task = task_of(chat("what is red", "apple"), chat("what is green", "leaf"))
    row = encode(tiny, task, 2).train[0]
    assert words(row.input_ids) == "user what is red assistant"
    assert words(row.answer_ids) == "apple"
    config = TuneConfig(virtual_tokens=2, batch_size=2, max_iterations=2)
    assert tune(tiny, task, init=None, config=config, seed=0).iterations == 2


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    model = BaseModel.load(write_tiny_model(tmp_path / "plain", chat=False), device="cpu")
    with pytest.raises(TuningInputError, match=r"train example 1 is a chat.*no chat template"):
        encode(model, task_of(chat("what is red", "apple")), 2)


def test_what_is_too_long_for_the_context_is_named(tiny: BaseModel) -> None:
    task = task_of(Example("apple", "red"), Example("sky " * 60, "blue"))
    with pytest.raises(TuningInputError, match=r"task 't', train example 2: 66 tokens.*takes 64"):
        encode(tiny, task, 5)
    encode(tiny, task, 3)


def test_a_completion_of_no_tokens_is_named(tiny: BaseModel) -> None:
    task = task_of(Example("apple", "red"), Example("rose", "\u00a0"))
    with pytest.raises(TuningInputError, match="train example 2: the completion tokenises to"):
        encode(tiny, task, 2)


def test_picked_examples_keep_their_numbers(tiny: BaseModel) -> None:
    task = task_of(Example("apple", "red"), Example("sky " * 60, "blue"))
    picked = encode(tiny, task, 5, train=[0], eval=())
    assert (len(picked.train), len(picked.eval)) == (1, 0)
    with pytest.raises(TuningInputError, match="example 2"):
        encode(tiny, task, 5, train=[1])
