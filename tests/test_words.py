"""Text that a user can see uses plain words."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("assets", "benchmarks", "examples", "maitre", "pipelines", "resources", "sensors")
AVOIDED = re.compile(
    r"(?<![Tt]here )\b(is none|are none|is told|are told(?! apart)|was told|were told|so-manieth"
    r"|as it was|as they were|is no(?= )(?! longer))\b"
)
"""Phrases that must be read twice; CONTRIBUTING.md has plain words for them."""


@pytest.mark.parametrize("room", ROOMS)
def test_strings_and_docstrings_use_plain_words(room: str) -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno}: {match[0]}"
        for file in sorted((REPOSITORY / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in AVOIDED.finditer(" ".join(node.value.split()))
    ]
    assert found == []
