"""The disk cache of compiled functions."""

import pytest

from maitre.twin.kernel import compiled


def test_a_cache_that_names_a_lost_type_is_empty():
    def lost():
        raise AttributeError("no such type any more")

    assert compiled._without_lost_types(lost)() == {}
    assert compiled._without_lost_types(lambda: {"kept": 1})() == {"kept": 1}


def test_other_failures_of_the_cache_are_not_hidden():
    def unreadable():
        raise PermissionError("index")

    with pytest.raises(PermissionError):
        compiled._without_lost_types(unreadable)()
