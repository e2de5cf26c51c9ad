"""Examples of a task, and the JSONL files that hold them: one example a line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maitre.tuning.messages import Message, TaskError, read_chat


@dataclass(frozen=True)
class Example:
    """An input and its answer, both verbatim (a leading space of the completion counts).

    `messages` is the whole chat, its answer last, when the line was written as a chat, so that a
    tokenizer's chat template can render it; `prompt` is then the text of the messages before the
    answer, `completion` the answer. `line` is the line of the file that it was read from.
    """

    prompt: str
    completion: str
    messages: tuple[Message, ...] | None = None
    line: int | None = field(default=None, compare=False, repr=False)

    @property
    def asked(self) -> str | tuple[Message, ...]:
        """The input as it is tokenised: the text, or the messages before the answer."""
        return self.prompt if self.messages is None else self.messages[:-1]


def normalised(prompt: str) -> str:
    """Return a prompt's words in one spelling: NFKC, case folded, blanks collapsed."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def compared(example: Example) -> str:
    """Return the form in which the prompts of two splits are compared.

    Case, width and spacing count: they are what some tasks are about. Only the two ways of Unicode
    to write the same character are one.
    """
    return unicodedata.normalize("NFC", example.prompt)


def overlap(
    train: Iterable[tuple[int, Example]], evaluation: Iterable[tuple[int, Example]]
) -> list[tuple[int, int]]:
    """Return `(eval number, first train number)` of each eval example whose prompt is in train.

    The numbers are those that came with the examples (lines of a file, or positions).
    """
    first: dict[str, int] = {}
    for number, example in train:
        first.setdefault(compared(example), number)
    keys = ((number, compared(example)) for number, example in evaluation)
    return [(number, first[key]) for number, key in keys if key in first]


def read_lines(path: Path) -> list[tuple[int, Example]]:
    """Read a JSONL file of examples with their line numbers (from 1); blank lines are passed over.

    Raises:
        TaskError: the file is missing or holds no example, or a line is not an example.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror})") from error
    examples = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                examples.append((number, replace(example_from_json(line), line=number)))
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
    except ValueError as error:
        # A whole number of thousands of digits.
        raise TaskError("malformed JSON: a number has too many digits") from error
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
    """Read a chat; refuse tools, which are not tuned, and ignore other fields."""
    if record.get("tools") or record.get("functions"):
        raise TaskError("tools are not supported: only text is tuned")
    messages = read_chat(record["messages"])
    prompt = "\n".join(message.content for message in messages[:-1])
    return Example(prompt, messages[-1].content, messages)


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
