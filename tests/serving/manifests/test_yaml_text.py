"""Texts stay texts in the YAML that clusters read."""

import re

import pytest
import yaml

from maitre.serving.manifests.yaml_text import dump, dump_all

# What YAML 1.2's core schema reads as a number.
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")


@pytest.mark.parametrize("text", ["1e5", "1E5", "+1e-3", ".5e1", "12", "0x1f", "0o17", "1.", "no"])
def test_a_text_that_looks_like_a_number_is_quoted(text: str) -> None:
    written = dump({"name": text})
    value = written.removeprefix("name: ").strip()
    assert not NUMBER.fullmatch(value)
    assert yaml.safe_load(written) == {"name": text}
    assert list(yaml.safe_load_all(dump_all([{"name": text}]))) == [{"name": text}]


def test_numbers_and_other_texts_stay_plain() -> None:
    written = dump({"port": 8000, "part": 0.9, "name": "1e5-x"})
    assert written == "port: 8000\npart: 0.9\nname: 1e5-x\n"
