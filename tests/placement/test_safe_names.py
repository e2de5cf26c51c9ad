"""Names that vLLM serves have paths, and paths name them again."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maitre.placement.safe_names import LONGEST_PART, is_safe_name, name_of, path_of


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("org0/adapter-0001", "org0/adapter-0001"),
        ("llama-3-8b:alpaca", "llama-3-8b%3Aalpaca"),
        ("acme/support@v2", "acme/support%40v2"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("100%25", "100%2525"),
        ("a b", "a%20b"),
        ("../escaped", "%2E%2E/escaped"),
        ("a" * 201, f"{'a' * 199}%/aa"),
    ],
)
def test_a_path_is_made_by_the_rule(name: str, path: str) -> None:
    assert path_of(name) == path
    assert name_of(path) == name


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
@example("/")
@example("")
@example("é" * 300)
@example("a" * 198 + "é%/" + "%" * 250)
def test_every_name_has_a_path_of_its_own_that_stays_in_its_folder(name: str) -> None:
    path = path_of(name)
    assert name_of(path) == name
    assert path.isascii()
    parts = path.split("/")
    assert all(0 < len(part) <= LONGEST_PART for part in parts)
    assert not {".", ".."} & set(parts)


@pytest.mark.parametrize(
    "name", ["a:b", "x/y@v2", "größe", "模型", "a+b", "a..b", "a#b?c", "~x", "a b"]
)
def test_what_vllm_serves_is_accepted(name: str) -> None:
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "name", [" a", "a ", "a\tb", "a=b", "a,b", "-a", "/a", "a//b", "a\n", "a\u200b", "{a}"]
)
def test_what_a_command_line_or_a_path_would_misread_is_refused(name: str) -> None:
    assert not is_safe_name(name)
