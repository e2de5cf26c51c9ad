"""Examples of a task, and the JSONL files that hold them: one example a line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maitre.errors import UserError


class TaskError(UserError):
    """A task that cannot be used; the message is one line and names the file, and its line."""


@dataclass(frozen=True)
class Message:
    """One message of a chat: `role` is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """An input and its answer, both verbatim (a leading space of the completion counts).

    `messages` is the whole chat, its answer last, when the line was written as a chat, so that a
    tokenizer's chat template can render it; `prompt` is then the text of the messages before the
    answer, `completion` the answer.
    """

    prompt: str
    completion: str
    messages: tuple[Message, ...] | None = None


_ROLES = ("system", "user", "assistant", "tool")


def normalised(prompt: str) -> str:
    """Return the form in which prompts are compared: NFKC, case folded, blanks collapsed."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def overlap(
    train: Iterable[tuple[int, Example]], evaluation: Iterable[tuple[int, Example]]
) -> list[tuple[int, int]]:
    """Return `(eval number, first train number)` of each eval example whose prompt is in train.

    The numbers are those that came with the examples (lines of a file, or positions).
    """
    first: dict[str, int] = {}
    for number, example in train:
        first.setdefault(normalised(example.prompt), number)
    keys = ((number, normalised(example.prompt)) for number, example in evaluation)
    return [(number, first[key]) for number, key in keys if key in first]


def read_lines(path: Path) -> list[tuple[int, Example]]:
    """Read a JSONL file of examples with their line numbers (from 1); blank lines are passed over.

    Raises:
        TaskError: the file is missing or holds no example, or a line is not a example.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror})") from error
    examples = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                examples.append((number, example_from_json(line)))
            except TaskError as error:
                raise TaskError(f"{path}:{number}: {error}") from error
    if not examples:
        raise TaskError(f"{path}: is empty; it needs at least one example")
    return examples


def example_from_json(line: bytes | str) -> Example:
    """Read one line: `{"prompt": …, "completion": …}` or `{"messages": [{"role", "content"}, …]}`.

    Raises:
        TaskError: the line is not such an object; the message names the field, not the place.
    """
    try:
        # Lone surrogates pass JSON but no tokenizer; `encode` finds them.
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise TaskError("the text is not valid UTF-8") from error
    except json.JSONDecodeError as error:
        raise TaskError(f"malformed JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise TaskError("malformed JSON: nested too deeply") from error
    if not isinstance(record, dict):
        raise TaskError('a line must be an object {"prompt": …, "completion": …}')
    return _from_chat(record) if "messages" in record else _from_pair(record)


def example_to_json(example: Example) -> str:
    """Return the line that `example_from_json` reads as this example."""
    if example.messages is None:
        record: dict[str, Any] = {"prompt": example.prompt, "completion": example.completion}
    else:
        messages = [{"role": m.role, "content": m.content} for m in example.messages]
        record = {"messages": messages}
    return json.dumps(record, ensure_ascii=False)


def _from_pair(record: dict[str, Any]) -> Example:
    _check_fields(record, ("prompt", "completion"))
    return Example(_text(record, "prompt"), _text(record, "completion"))


def _from_chat(record: dict[str, Any]) -> Example:
    _check_fields(record, ("messages",))
    listed = record["messages"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise TaskError("messages must be a list of at least a question and its answer")
    messages = tuple(_message(item, index) for index, item in enumerate(listed, start=1))
    if messages[-1].role != "assistant":
        raise TaskError(f"the last message must be the assistant's, not the {messages[-1].role}'s")
    prompt = "\n".join(message.content for message in messages[:-1])
    return Example(prompt, messages[-1].content, messages)


def _message(item: object, index: int) -> Message:
    try:
        if not isinstance(item, dict):
            raise TaskError('must be an object {"role": …, "content": …}')
        _check_fields(item, ("role", "content"))
        if item["role"] not in _ROLES:
            raise TaskError(f"role must be one of {', '.join(_ROLES)}, not {item['role']!r}")
        return Message(item["role"], _text(item, "content"))
    except TaskError as error:
        raise TaskError(f"message {index}: {error}") from error


def _check_fields(record: dict[str, Any], wanted: tuple[str, ...]) -> None:
    if missing := [name for name in wanted if name not in record]:
        raise TaskError(f"no {' and no '.join(missing)}")
    if unknown := sorted(set(record) - set(wanted)):
        raise TaskError(f"unknown field {unknown[0]!r}; known: {', '.join(wanted)}")


def _text(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TaskError(f"{name} must be text, not {json.dumps(value, ensure_ascii=False)[:40]}")
    if not value.strip():
        raise TaskError(f"empty {name}")
    return value
