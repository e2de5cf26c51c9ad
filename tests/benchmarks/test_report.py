"""Every benchmark has one shape: a table and a JSON file of figures beside their reach."""

import ast
import importlib.util
import json
import types
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.report import Figure, Reach, Report


def test_a_figure_is_met_within_its_reach_only() -> None:
    assert Figure("f", 0.3, reach=Reach(at_most=0.3)).met is True
    assert Figure("f", 0.31, reach=Reach(at_most=0.3)).met is False
    assert Figure("f", 2.9, reach=Reach(at_least=3)).met is False
    assert Figure("f", 2.9).met is None
    assert Figure("f", "one worker", reach=Reach(at_most=1)).met is None


@pytest.mark.parametrize(
    ("reach", "text"),
    [
        (Reach(at_most=0.3), "<= 0.3"),
        (Reach(at_least=3), ">= 3"),
        (Reach(-1, 1), ">= -1 and <= 1"),
        (Reach(0, 0), "0"),
    ],
)
def test_a_reach_says_its_ends(reach: Reach, text: str) -> None:
    assert str(reach) == text


def test_table_and_file_hold_the_same_rows(tmp_path: Path) -> None:
    report = Report(
        [Figure("delay", 0.25, "s", Reach(at_most=0.3)), Figure("jobs", 12_000)],
        {"seed": 0},
    )
    header, _, first, second = report.table().splitlines()
    assert _cells(header) == ["name", "figure", "unit", "reach", "met"]
    assert _cells(first) == ["delay", "0.25", "s", "<= 0.3", "yes"]
    assert "12,000" in second
    file = report.write("some-benchmark", tmp_path)
    assert file == tmp_path / "some-benchmark.json"
    assert json.loads(file.read_text()) == {
        "benchmark": "some-benchmark",
        "figures": [
            {"name": "delay", "figure": 0.25, "unit": "s", "reach": "<= 0.3", "met": True},
            {"name": "jobs", "figure": 12_000, "unit": "", "reach": None, "met": None},
        ],
        "details": {"seed": 0},
    }


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.mark.parametrize("module", command.MODULES.values())
def test_each_benchmark_has_options_and_a_measurement(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"add_options", "measure"} <= functions.keys()
    assert ast.unparse(functions["measure"].returns or ast.Constant(None)) == "Report"
    assert command.description(module)


def test_a_run_prints_the_table_and_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = types.SimpleNamespace(
        add_options=lambda parser: parser.add_argument("--count", type=int, default=1),
        measure=lambda options: Report([Figure("counted", options.count)]),
    )
    monkeypatch.setattr(command.importlib, "import_module", lambda module: benchmark)
    file = tmp_path / "figures.json"
    assert command.main(["twin", "--count", "7", "--json", str(file)]) == 0
    assert "counted" in capsys.readouterr().out
    assert json.loads(file.read_text())["figures"][0]["figure"] == 7


def test_an_unknown_name_is_one_line_with_the_known_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["nothing"]) == 2
    assert "expected one of" in capsys.readouterr().err
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in command.MODULES)
