"""The asset checks in the summary of `make run`."""

import ast
from pathlib import Path

import dagster as dg
from rich.console import Console

from pipelines.walkthrough.checks import newest_results
from pipelines.walkthrough.summary import print_checks

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dg.asset
def plan() -> None: ...


@dg.asset_check(asset=plan)
def is_green() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset_check(asset=plan)
def is_yellow() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description="2 of 3 lookups[0] agree;\nadd prompts",
    )


@dg.asset_check(asset=plan)
def says_nothing() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False)


@dg.asset_check(asset=plan)
def never_evaluated() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


CHECKS = [is_green, is_yellow, says_nothing, never_evaluated]


def test_every_check_that_does_not_pass_is_one_line_with_what_to_do() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([plan, *CHECKS[:-1]], instance=instance)
        graph = dg.Definitions(assets=[plan], asset_checks=CHECKS).resolve_asset_graph()
        results = newest_results(instance, [graph, graph])
    console = Console(width=200, record=True)
    print_checks(results, console)
    assert console.export_text().splitlines() == [
        "● 1 of 4 asset checks pass",
        "● check is_yellow of plan: 2 of 3 lookups[0] agree; add prompts",
        "● check never_evaluated of plan: no result yet; materialise plan in make ui",
        "● check says_nothing of plan: open plan in make ui for its figures",
    ]
    assert [result.blocking for result in results if not result.passed] == [False, False, True]


def test_every_check_of_the_graph_has_a_description() -> None:
    results = [
        (file.name, node)
        for file in sorted(ASSETS.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dg.AssetCheckResult"
    ]
    assert len(results) >= 7
    for file, call in results:
        assert "description" in {keyword.arg for keyword in call.keywords}, (file, call.lineno)
