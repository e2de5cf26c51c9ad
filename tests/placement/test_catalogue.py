"""The adapter catalogue: what is taken, what is refused and how it is said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.errors import UserError
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError

MODEL = "llama-3.1-8b-instruct"


def write(folder: Path, text: str) -> Path:
    path = folder / "adapters.csv"
    path.write_text(text)
    return path


def rows(count: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "adapter": [f"a{i}" for i in range(count)],
            "base_model": MODEL,
            "rank": 8,
            "rate_rps": 0.5,
        }
    )


def test_reads_csv_and_parquet_alike(tmp_path: Path) -> None:
    frame = rows().assign(mean_input_tokens=[100.0, np.nan, 50.0])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        catalogue = AdapterCatalogue.read(tmp_path / name)
        assert list(catalogue.names) == ["a0", "a1", "a2"]
        assert catalogue.ranks.tolist() == [8, 8, 8]
        assert np.isnan(catalogue.mean_input_tokens[1])
        assert np.isnan(catalogue.mean_output_tokens).all()


def test_reads_the_example() -> None:
    path = Path(__file__).parents[2] / "examples" / "adapters.csv"
    catalogue = AdapterCatalogue.read(path, base_models={MODEL}, max_rank=32)
    assert len(catalogue) == 1000
    assert set(catalogue.ranks.tolist()) == {8, 16, 32}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate_rps": [0.1, -1.0, 0.1]}, "row 2: rate_rps"),
        ({"rate_rps": [0.1, 0.1, np.nan]}, "row 3: rate_rps"),
        ({"rate_rps": [0.1, 0.1, np.inf]}, "row 3: rate_rps"),
        ({"rate_rps": ["0.1", "fast", "0.1"]}, "row 2: rate_rps"),
        ({"rank": [8, "eight", 8]}, "row 2: rank"),
        ({"rank": [8, 8.5, 8]}, "row 2: rank"),
        ({"rank": [0, 8, 8]}, "row 1: rank"),
        ({"rank": [8, 8, 128]}, "row 3: rank"),
        ({"adapter": ["a", "b", "a"]}, "row 3: adapter"),
        ({"adapter": ["a", None, "b"]}, "row 2: adapter"),
        ({"base_model": [MODEL, "gpt-9", MODEL]}, "row 2: base_model"),
        ({"mean_input_tokens": [1, 0, 5]}, "row 2: mean_input_tokens"),
    ],
)
def test_bad_rows_are_named(change: dict, said: str) -> None:
    frame = rows().assign(**change)
    with pytest.raises(CatalogueError, match=said) as caught:
        AdapterCatalogue.from_frame(frame, base_models={MODEL}, max_rank=32)
    assert len(caught.value.problems) == 1


def test_missing_column_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="column 'rank' is missing"):
        AdapterCatalogue.read(write(tmp_path, "adapter,base_model,rate_rps\na,b,1\n"))
    with pytest.raises(CatalogueError, match="no rows"):
        AdapterCatalogue.read(write(tmp_path, "adapter,base_model,rank,rate_rps\n"))
    with pytest.raises(CatalogueError, match="empty"):
        AdapterCatalogue.read(write(tmp_path, ""))
    with pytest.raises(UserError, match="no adapter catalogue"):
        AdapterCatalogue.read(tmp_path / "absent.csv")


def test_every_bad_row_is_counted_and_twenty_are_shown() -> None:
    frame = rows(100).assign(rate_rps=-1.0)
    with pytest.raises(CatalogueError) as caught:
        AdapterCatalogue.from_frame(frame)
    assert len(caught.value.problems) == 20
    assert caught.value.count == 100
    assert "100 rows are wrong" in str(caught.value)
    assert "and 80 more" in str(caught.value)
    assert str(caught.value).count("\n") == 21


def test_rows_are_counted_and_not_complaints() -> None:
    frame = rows(30).assign(rate_rps=-1.0, rank="x")
    with pytest.raises(CatalogueError) as caught:
        AdapterCatalogue.from_frame(frame)
    assert caught.value.count == 30
    shown = caught.value.problems
    assert [line.split(":")[0] for line in shown] == [f"row {i + 1}" for i in range(20)]
    assert all("rank 'x'" in line and "rate_rps -1.0 is negative" in line for line in shown)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("tenant-0001", True),
        ("organisation/name_v1.2", True),
        ("a..b", True),
        ("llama-3-8b:alpaca", True),
        ("acme/support@v2", True),
        ("größe", True),
        ("a/../b", False),
        ("..", False),
        ("./a", False),
        ("c d", True),
        ("a=b", False),
        ("a,b", False),
        ("-a", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("{a}", False),
    ],
)
def test_names_that_a_command_line_or_a_path_would_misread_are_refused(
    name: str, safe: bool
) -> None:
    frame = rows().assign(adapter=["x", name, "y"])
    if safe:
        assert AdapterCatalogue.from_frame(frame).names[1] == name
        return
    with pytest.raises(CatalogueError, match=r"row 2: adapter '.*' is not a safe name"):
        AdapterCatalogue.from_frame(frame)


def test_names_that_differ_by_blanks_are_one(tmp_path: Path) -> None:
    path = write(tmp_path, f"adapter,base_model,rank,rate_rps\na,{MODEL},8,1\n a,{MODEL},8,1\n")
    with pytest.raises(CatalogueError, match="row 2: adapter ' a' is listed more than once"):
        AdapterCatalogue.read(path)


def test_a_part_of_a_catalogue_knows_its_rows() -> None:
    part = AdapterCatalogue.from_frame(rows(5)).take(np.array([1, 3])).take(np.array([1]))
    with pytest.raises(CatalogueError, match=r"^catalogue: row 4: rank 8"):
        part.check(base_models={MODEL}, max_rank=4)


def test_an_adapter_may_be_called_na(tmp_path: Path) -> None:
    path = write(tmp_path, f"adapter,base_model,rank,rate_rps\nNA,{MODEL},8,1\n")
    assert list(AdapterCatalogue.read(path).names) == ["NA"]


def test_check_against_a_profile() -> None:
    catalogue = AdapterCatalogue.from_frame(rows())
    catalogue.check(base_models={MODEL}, max_rank=8)
    with pytest.raises(CatalogueError, match="3 rows"):
        catalogue.check(base_models={"other"}, max_rank=8)


def test_requests_that_fit_no_server_are_named() -> None:
    frame = rows().assign(mean_input_tokens=200.0, mean_output_tokens=100.0)
    frame.loc[1, "mean_input_tokens"] = 1e6
    with pytest.raises(CatalogueError, match="row 2: tokens of a mean request 1000100"):
        AdapterCatalogue.from_frame(frame).check(
            base_models={MODEL}, max_rank=32, max_tokens=131_072
        )
