"""YAML files that people write: a mapping, or one line that names the place."""

import pytest

from maitre.errors import UserError
from maitre.yaml_mapping import parse_mapping


def test_a_mapping_is_read_and_an_empty_document_is_an_empty_one() -> None:
    assert parse_mapping("a: 1\nb: [x]\n", "f") == {"a": 1, "b": ["x"]}
    assert parse_mapping("# nothing\n", "f") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [\n", "f:3: not YAML"),
        ("a: b: c\n", "f:1: not YAML"),
        ("- a\n", "expected lines of the form `field: value`; got list"),
        ("text", "got str"),
        ("1: a\n", "expected lines of the form"),
        ("a: 2024-02-30\n", "f: not YAML: day"),
        (f"a: {'9' * 5000}\n", "f: not YAML: Exceeds"),
        ("[" * 100_000, "nested too deeply"),
        ("a: \0\n", "f: not YAML"),
        ("a: !!python/object:os.system x\n", "f:1: not YAML"),
    ],
)
def test_anything_else_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        parse_mapping(text, "f")
    assert "\n" not in str(refused.value)
