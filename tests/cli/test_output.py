"""Tables and JSON: numbers, not what numpy calls them."""

import json

import numpy as np

from maitre.cli.output import print_json, print_table

FIGURES = {
    "count": np.int64(3),
    "share": np.float64(0.5),
    "single": np.float32(0.25),
    "flag": np.bool_(True),
    "list": [np.float64(1.5), (np.int32(2),)],
    "array": np.array([1.0, np.nan]),
    "nested": {"p99": np.float64("inf"), "name": np.str_("a")},
    "none": None,
}


def test_json_holds_numbers_and_no_word_that_json_does_not_have(capsys):
    print_json(FIGURES)
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=lambda word: pytest_fail(word)) == {
        "count": 3,
        "share": 0.5,
        "single": 0.25,
        "flag": True,
        "list": [1.5, [2]],
        "array": [1.0, None],
        "nested": {"p99": None, "name": "a"},
        "none": None,
    }


def pytest_fail(word):
    raise AssertionError(word)


def test_a_table_shows_numbers(capsys):
    print_table([{"figure": name, "value": value} for name, value in FIGURES.items()], "Figures")
    printed = capsys.readouterr().out
    assert "np." not in printed
    assert "p99 inf, name a" in printed
