import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from maitre.cli.twin import app

RUN = CliRunner()
LLAMA = "h100-64gb/llama-3.1-8b-instruct"


@pytest.fixture
def catalogue(tmp_path):
    path = tmp_path / "adapters.csv"
    pd.DataFrame({"adapter": ["a", "b"], "rank": [8, 16], "rate_rps": [0.5, 0.2]}).to_csv(
        path, index=False
    )
    return path


def test_profiles_are_listed():
    listed = json.loads(RUN.invoke(app, ["profiles", "--json"]).stdout)
    assert LLAMA in [profile["name"] for profile in listed]


def test_a_catalogue_is_simulated(catalogue):
    arguments = ["simulate", "--profile", LLAMA, "--catalogue", str(catalogue)]
    arguments += ["--max-loras", "8", "--duration", "120", "--json"]
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["completed"] > 0
    assert [row["adapter"] for row in report["by_adapter"]] == ["a", "b"]


def test_a_missing_column_is_an_error(tmp_path):
    path = tmp_path / "bad.csv"
    pd.DataFrame({"adapter": ["a"]}).to_csv(path, index=False)
    found = RUN.invoke(app, ["simulate", "--profile", LLAMA, "--catalogue", str(path)])
    assert isinstance(found.exception, ValueError)
    assert "no column 'rank'" in str(found.exception)


def test_neither_catalogue_nor_trace_is_an_error():
    found = RUN.invoke(app, ["simulate", "--profile", LLAMA])
    assert isinstance(found.exception, ValueError)
