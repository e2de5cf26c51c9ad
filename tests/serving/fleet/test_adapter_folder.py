from pathlib import Path

import pytest

from maitre.serving.fleet.adapter_folder import AdapterError, adapter_rank, check_adapter
from maitre.serving.measure.blank_adapters import blank_adapters

CONFIG = """{"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}"""


def test_blank_adapters_have_their_ranks_and_are_made_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(CONFIG)
    made = blank_adapters(tmp_path / "adapters", model, [4, 8])
    assert [adapter_rank(folder) for folder in made.values()] == [4, 8]
    again = blank_adapters(tmp_path / "adapters", model, [4, 8])
    assert again == made
    check_adapter(made["rank8-001"], 8)
    with pytest.raises(AdapterError, match="rank 8 is above the server's 4"):
        check_adapter(made["rank8-001"], 4)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="adapter file missing"):
        adapter_rank(tmp_path / "none")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        blank_adapters(tmp_path / "adapters", tmp_path, [4])
