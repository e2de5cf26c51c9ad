from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.errors import UserError
from maitre.serving.names import dns_label, inside

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
