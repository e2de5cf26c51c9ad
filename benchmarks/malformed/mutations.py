"""How a good file is damaged: bytes, lines, values, encodings, and the values of JSON documents."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

ODD_TEXTS = (
    *("nan", "inf", "-inf", "-1", "0", "1e300", "-1e300", "9" * 5000, "0x10", "1,5", "1_000"),
    *("", " ", "null", "None", "true", "NA", "[]", "{}", '"', "'", "\\", "\0", "\ufeff", "é", "𝄞"),
    *("../../x", "a" * 200_000, "2024-02-30", "99999-01-01", "\ud800", "\r", "&a *a", "!!python"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**400, -(10**20), 1e300, float("nan"), float("inf"), "", "x"),
    *("9" * 5000, "\ud800", "../../x", [], {}, [[]], [None], {"a": None}, [1, "x"]),
)
_MOST_DEEP = 100_000

Mutation = Callable[[bytes, Random], bytes]


def mutated(content: bytes, random: Random) -> bytes:
    """Return the content damaged in one to three ways."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = random.choice(MUTATIONS)(content, random)
    return content


def _place(content: bytes, random: Random) -> int:
    return random.randrange(len(content) + 1)


def _flip(content: bytes, random: Random) -> bytes:
    if not content:
        return content
    place = random.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    )


def _truncate(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def _delete(content: bytes, random: Random) -> bytes:
    begin = _place(content, random)
    return content[:begin] + content[begin + random.choice((1, 3, 40)) :]


def _repeat(content: bytes, random: Random) -> bytes:
    begin = _place(content, random)
    part = content[begin : begin + random.choice((1, 20, 400))]
    return content[:begin] + part + content[begin:]


def _insert_bytes(content: bytes, random: Random) -> bytes:
    begin = _place(content, random)
    return content[:begin] + random.randbytes(random.choice((1, 4, 64))) + content[begin:]


def _odd_text(content: bytes, random: Random) -> bytes:
    begin = _place(content, random)
    text = random.choice(ODD_TEXTS).encode(errors="surrogatepass")
    return content[:begin] + text + content[begin:]


def _odd_token(content: bytes, random: Random) -> bytes:
    """Replace what stands between two separators."""
    marks = [i for i, byte in enumerate(content) if byte in b',:;\n\t "'][:2000]
    if len(marks) < 2:
        return content
    place = random.randrange(len(marks) - 1)
    text = random.choice(ODD_TEXTS).encode(errors="surrogatepass")
    return content[: marks[place] + 1] + text + content[marks[place + 1] :]


def _lines(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    action = random.randrange(4)
    if action == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif action == 1:
        lines.insert(first, lines[second])
    elif action == 2:
        del lines[first]
    else:
        lines[first] += b"," + lines[second]
    return b"\n".join(lines)


def _encoding(content: bytes, random: Random) -> bytes:
    encoding = random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig"))
    return content.decode(errors="replace").encode(encoding)


def _nothing(content: bytes, random: Random) -> bytes:
    return random.choice((b"", b"\n", b"\0", b"\xef\xbb\xbf", content[:1]))


def _deep(content: bytes, random: Random) -> bytes:
    opening = random.choice((b"[", b'{"a":', b"- "))
    return opening * _MOST_DEEP + random.choice((b"", content))


def _json(content: bytes, random: Random) -> bytes:
    """Replace, remove or add a value somewhere in a JSON document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _odd_token(content, random)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(items):
            places.append((value, key))
            if isinstance(inner, dict | list):
                walk(inner)

    if not isinstance(document, dict | list):
        return json.dumps(random.choice(ODD_VALUES)).encode()
    walk(document)
    if not places:
        return content
    holder, key = random.choice(places)
    if random.random() < 0.2:
        del holder[key]
    elif random.random() < 0.1 and isinstance(holder, dict):
        holder[random.choice(("", "x", "\ud800", "9" * 100))] = holder[key]
    else:
        holder[key] = random.choice(ODD_VALUES)
    return json.dumps(document).encode()


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _truncate, _delete, _repeat, _insert_bytes, _odd_text, _odd_token, _lines),
    *(_encoding, _nothing, _deep, _json, _json, _odd_token),
)
