"""The messages of a chat, read as the files of others have them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from maitre.errors import UserError


class TaskError(UserError):
    """A task that cannot be used; the message is one line and names the file, and its line."""


@dataclass(frozen=True)
class Message:
    """One message of a chat: `role` is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


# `developer` is the newer name of `system`, `function` the older one of `tool`.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_KNOWN = ("system", "user", "assistant", "tool")
_CALLS = ("tool_calls", "function_call")


def read_messages(listed: object) -> tuple[Message, ...]:
    """Read the messages of an input, as in OpenAI's API.

    Content may be a list of text parts. A `developer` message is a system message; an empty system
    message is left out. Further fields, such as `name`, do not matter.

    Raises:
        TaskError: the first thing that is wrong; it names the message (from 1).
    """
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes) or not listed:
        raise TaskError("messages must be a list of at least one message")
    return _with_one_system_message(
        [_read(item, number) for number, item in enumerate(listed, start=1)]
    )


def read_chat(listed: object) -> tuple[Message, ...]:
    """Read an example's messages: the last one is the answer, an assistant's.

    A `weight` of 0 says that a message is not to be learned. The answer is then the last
    assistant's message of another weight, and what follows it is left out.

    Raises:
        TaskError: the first thing that is wrong; it names the message (from 1).
    """
    if not isinstance(listed, list) or len(listed) < 2:
        raise TaskError("messages must be a list of at least a question and its answer")
    read = [_read(item, number) for number, item in enumerate(listed, start=1)]
    last = len(listed)
    while last and _weight(listed[last - 1], last) == 0:
        last -= 1
        while last and listed[last - 1].get("role") != "assistant":
            last -= 1
    if not last:
        raise TaskError("every assistant's message has weight 0: none is left to learn")
    answer = read[last - 1]
    if answer.role != "assistant":
        raise TaskError(f"the last message must be the assistant's, not the {answer.role}'s")
    messages = _with_one_system_message(read[:last])
    if len(messages) < 2:
        raise TaskError("messages must be a list of at least a question and its answer")
    return messages


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put the system messages before the text of the first user message."""
    system = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    for place, message in enumerate(others):
        if system and message.role == "user":
            others[place] = replace(message, content="\n\n".join([*system, message.content]))
            return tuple(others)
    return tuple(messages)


def _with_one_system_message(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Leave out empty system messages, and make one of several at the beginning."""
    kept = [m for m in messages if m.role != "system" or m.content.strip()]
    leading = 0
    while leading < len(kept) and kept[leading].role == "system":
        leading += 1
    if leading < 2:
        return tuple(kept)
    content = "\n\n".join(message.content for message in kept[:leading])
    return (Message("system", content), *kept[leading:])


def _read(item: object, number: int) -> Message:
    try:
        if not isinstance(item, dict):
            raise TaskError('must be an object {"role": …, "content": …}')
        if "role" not in item:
            raise TaskError("no role")
        role = item["role"]
        if not isinstance(role, str) or role not in _ROLES:
            raise TaskError(f"role must be one of {', '.join(_KNOWN)}, not {role!r}")
        if calls := [name for name in _CALLS if item.get(name)]:
            raise TaskError(f"{calls[0]} are not supported: only text is tuned")
        return Message(_ROLES[role], _content(item, is_system=_ROLES[role] == "system"))
    except TaskError as error:
        raise TaskError(f"message {number}: {error}") from error


def _content(item: dict[str, Any], *, is_system: bool) -> str:
    content = item.get("content")
    if is_system and content in (None, "", []):
        return ""
    if "content" not in item:
        raise TaskError("no content")
    if isinstance(content, list):
        content = "\n".join(_part_text(part, place) for place, part in enumerate(content, start=1))
    if not isinstance(content, str):
        raise TaskError(f"content must be text, not {_value_text(content)}")
    if not content.strip() and not is_system:
        raise TaskError("empty content")
    return content


def _part_text(part: object, place: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise TaskError(f"content part {place} is {_value_text(part)}: only text is tuned")
    return text


def _weight(item: dict[str, Any], number: int) -> float:
    weight = item.get("weight")
    if item.get("role") != "assistant" or weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise TaskError(f"message {number}: weight must be 0 or 1, not {_value_text(weight)}")
    return float(weight)


def _value_text(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str)[:40]
