from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.errors import UserError
from maitre.serving.names import adapter_folder, dns_label, inside

FOLDER = Path("/x/adapters")


@pytest.mark.parametrize(
    "name", ["..", "../a", "a/../../b", "/etc/a", "a//b", "", ".", "a\0b", "é" * 128]
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected"):
        inside(FOLDER, name)


@pytest.mark.parametrize("name", ["a", "org/name", "a:b", "x@v2", "größe", "..a"])
def test_other_names_are_paths_in_the_folder(name: str) -> None:
    assert FOLDER in inside(FOLDER, name).parents


@given(st.text(max_size=300))
def test_any_name_is_inside_or_refused_and_has_a_label(name: str) -> None:
    assert "/" not in dns_label(name)
    assert ".." not in dns_label(name)
    try:
        path = inside(FOLDER, name)
    except UserError:
        return
    assert FOLDER in Path(str(path)).parents


def test_an_adapters_folder_is_its_name_by_the_rule_and_never_leads_out() -> None:
    assert adapter_folder(FOLDER, "org/name") == FOLDER / "org/name"
    assert adapter_folder(FOLDER, "x/y@v2") == FOLDER / "x/y%40v2"
    assert all(len(part) <= 200 for part in adapter_folder(FOLDER, "é" * 400).parts)
    for name in ("..", "../a", "a/../../b", "/etc/a", "a//b", "", ".", "a\0b"):
        with pytest.raises(UserError, match="expected a path inside"):
            adapter_folder(FOLDER, name)
