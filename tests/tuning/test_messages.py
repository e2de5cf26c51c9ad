"""Chats as the files of others have them."""

import json
from pathlib import Path

import pytest

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuningInputError
from maitre.tuning.encoding import encode
from maitre.tuning.examples import example_from_json
from maitre.tuning.messages import Message, TaskError, fold_system, read_messages
from maitre.tuning.tasks import Task

from .conftest import WORDS

REFUSING = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
)


def chat(*messages: dict, **extra: object) -> tuple[Message, ...]:
    found = example_from_json(json.dumps({"messages": list(messages), **extra})).messages
    assert found is not None
    return found


def said(role: str, content: object, **extra: object) -> dict:
    return {"role": role, "content": content, **extra}


USER, ANSWER = said("user", "apple"), said("assistant", "red")
PLAIN = (Message("user", "apple"), Message("assistant", "red"))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([said("user", [{"type": "text", "text": "apple"}]), ANSWER], PLAIN),
        ([said("user", "apple", name="ann", id=7), said("assistant", "red", weight=1)], PLAIN),
        ([said("system", ""), USER, ANSWER], PLAIN),
        ([said("system", None), USER, ANSWER], PLAIN),
        ([{"role": "system"}, USER, ANSWER], PLAIN),
        ([said("developer", "be kind"), USER, ANSWER], (Message("system", "be kind"), *PLAIN)),
        (
            [said("system", "be kind"), said("developer", "sort"), USER, ANSWER],
            (Message("system", "be kind\n\nsort"), *PLAIN),
        ),
        ([USER, ANSWER, said("user", "sky"), said("assistant", "blue", weight=0)], PLAIN),
        ([USER, said("assistant", "red", refusal=None, tool_calls=None)], PLAIN),
    ],
)
def test_chats_are_read_as_people_have_them(messages: list, expected: tuple) -> None:
    assert chat(*messages, id="x", metadata={"a": 1}) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [said("user", [{"type": "image_url", "image_url": {}}]), ANSWER],
            "message 1: content part 1",
        ),
        ([USER, said("assistant", "red", weight=0)], "weight 0: none is left to learn"),
        ([USER, said("assistant", "red", weight=2)], "message 2: weight must be 0 or 1, not 2"),
        ([USER, {"role": "assistant", "tool_calls": [1]}], "message 2: tool_calls are not"),
        ([said("user", ""), ANSWER], "message 1: empty content"),
        ([said("system", ""), ANSWER], "at least a question and its answer"),
        ([said(["user"], "a"), ANSWER], "message 1: role must be one of system, user"),
    ],
)
def test_what_is_no_text_to_learn_is_named(messages: list, expected: str) -> None:
    with pytest.raises(TaskError, match=expected):
        chat(*messages)


def test_tools_are_refused_and_not_passed_over() -> None:
    with pytest.raises(TaskError, match="tools are not supported"):
        chat(USER, ANSWER, tools=[{"type": "function"}])


def test_a_system_message_is_folded_into_the_first_user_message() -> None:
    messages = read_messages([said("system", "be kind"), USER, ANSWER, said("user", "sky")])
    folded = [(message.role, message.content) for message in fold_system(messages)]
    assert folded[0] == ("user", "be kind\n\napple")
    assert [role for role, _ in folded] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (REFUSING, "System role not supported; `fold_system: true` in task.yaml"),
        ("{{ messages[0].nothing.more }}", "has no attribute"),
        ("{% for %}", "chat template refuses the chat"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_fails_is_one_line_with_task_and_line(
    tiny: BaseModel, tmp_path: Path, template: str, expected: str
) -> None:
    line = {"messages": [said("system", "is in"), USER, ANSWER]}
    (tmp_path / "task.yaml").write_text("name: t\ndescription: d\nmetric: loss\n")
    (tmp_path / "train.jsonl").write_text("\n\n" + json.dumps(line) + "\n")
    plain = {"prompt": "sky", "completion": "blue"}
    (tmp_path / "eval.jsonl").write_text(json.dumps(plain) + "\n")
    task = Task.load(tmp_path)
    kept, tiny.tokenizer.chat_template = tiny.tokenizer.chat_template, template
    try:
        with pytest.raises(TuningInputError) as refused:
            encode(tiny, task, 2)
        message = str(refused.value)
        assert message.startswith("task 't', train.jsonl:3: ")
        assert expected in message
        assert "\n" not in message
        if template == REFUSING:
            header = (tmp_path / "task.yaml").read_text() + "fold_system: true\n"
            (tmp_path / "task.yaml").write_text(header)
            folding = Task.load(tmp_path)
            assert folding.fingerprint() != task.fingerprint()
            ids = encode(tiny, folding, 2).train[0].input_ids
            assert " ".join(WORDS[i] for i in ids) == "user is in apple"
    finally:
        tiny.tokenizer.chat_template = kept
