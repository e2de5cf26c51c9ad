"""`maitre catalogue from-folders`, and plans whose adapters vLLM refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from maitre.cli.main import app
from maitre.errors import UserError
from maitre.placement.catalogue import AdapterCatalogue
from tests.tiny_plans import tiny_plan
from tests.vllm_double import write_adapter

LLAMA = {"base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_folders_become_a_catalogue(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "a", 8, **LLAMA)
    write_adapter(tmp_path / "adapters" / "org" / "b", 8, rank_pattern={"q_proj": 32}, **LLAMA)
    out = tmp_path / "adapters.csv"
    run("catalogue", "from-folders", tmp_path / "adapters", "--rate", "0.5", "--out", out)
    found = AdapterCatalogue.read(out)
    assert list(found.names) == ["a", "org/b"]
    assert list(found.ranks) == [8, 32]
    assert set(found.base_models) == {"llama-3.1-8b-instruct"}
    assert set(found.rates_rps) == {0.5}


def test_an_adapter_that_vllm_refuses_makes_no_catalogue(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "good", **LLAMA)
    write_adapter(tmp_path / "adapters" / "odd", use_dora=True, **LLAMA)
    out = tmp_path / "adapters.csv"
    with pytest.raises(UserError, match="odd: vLLM does not support DoRA"):
        run("catalogue", "from-folders", tmp_path / "adapters", "--rate", "1", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "a: vLLM does not support DoRA"),
        ({"r": 64}, "a: rank 64 is above the server's 8"),
        ({"base_model_name_or_path": "Qwen/Qwen2.5-7B"}, "a: its base model is Qwen/Qwen2.5-7B"),
    ],
)
def test_a_dry_run_refuses_what_vllm_would_refuse(
    tmp_path: Path, config: dict[str, object], reason: str
) -> None:
    write_adapter(tmp_path / "adapters" / "a", **config)
    (tmp_path / "plan.json").write_text(tiny_plan({"s": {"a": 1.0}}).to_json())
    with pytest.raises(UserError, match="the plan cannot be served") as raised:
        run("deploy", "local", tmp_path / "plan.json", "--adapters", tmp_path / "adapters",
            "--folder", tmp_path / "fleet", "--dry-run")  # fmt: skip
    assert reason in str(raised.value)


def test_a_name_that_leads_out_of_the_adapters_folder_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "escaped")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "plan.json").write_text(tiny_plan({"s": {"../escaped": 1.0}}).to_json())
    with pytest.raises(UserError, match=r"expected a path inside"):
        run("deploy", "local", tmp_path / "plan.json", "--adapters", tmp_path / "adapters",
            "--folder", tmp_path / "fleet", "--dry-run")  # fmt: skip
    with pytest.raises(UserError, match=r"expected a path inside"):
        run("deploy", "render", tmp_path / "plan.json", "--out", tmp_path / "out")
