"""Catalogue files that are no such table: each is refused with what to mend, or read rightly."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from maitre.errors import UserError
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError

MODEL = "llama-3.1-8b-instruct"
HEADER = "adapter,base_model,rank,rate_rps\n"
ROW = f"a,{MODEL},8,1\n"


def read(folder: Path, text: str) -> AdapterCatalogue:
    path = folder / "adapters.csv"
    path.write_text(text)
    return AdapterCatalogue.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEADER}0,a,{MODEL},8,1\n", "row 1: has 5 fields for 4 columns"),
        (f"{HEADER}{ROW}b,{MODEL},8,1,\n", "row 2: has 5 fields for 4 columns"),
        (f"{HEADER}{ROW}\n  \nb,{MODEL},8,1,7\n", "row 2: has 5 fields"),
        (f"adapter,base_model,rank, rank,rate_rps\na,{MODEL},8,8,1\n", "'rank' is there 2 times"),
        (f"adapter,base_model,rank,rank,rate_rps\na,{MODEL},8,8,1\n", "'rank' is there 2 times"),
        ((HEADER + ROW).replace(",", ";"), "separated by semicolons, not by commas"),
        ((HEADER + ROW).replace(",", "\t"), "separated by tabs, not by commas"),
        ("name,model,rank,rps\na,b,8,1\n", "'adapter' is missing; there are 'name', 'model', 'r"),
        ("\n\n", "the file is empty"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        read(tmp_path, text)


def test_every_long_row_is_counted_and_twenty_are_shown(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="30 rows are wrong") as caught:
        read(tmp_path, HEADER + ROW + f"b,{MODEL},8,1,9\n" * 30)
    assert caught.value.count == 30
    assert [line.split(":")[0] for line in caught.value.problems] == [
        f"row {i}" for i in range(2, 22)
    ]


def test_a_folder_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="it is a folder"):
        AdapterCatalogue.read(tmp_path)
    for name, reason in (("a.csv.gz", "Not a gzipped"), ("a.parquet", "cannot be read")):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(UserError, match=rf"{name}: {reason}"):
            AdapterCatalogue.read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (HEADER.encode() + b"a" * 140_000 + b",m,8,1\n", ":2: not CSV: a field has more than"),
        ((HEADER + ROW).encode("utf-16"), "is UTF-16 text: expected UTF-8"),
        (HEADER.encode() + b"\xe9,m,8,1\n", ":2: not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_table_is_one_line_that_names_the_place(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as refused:
        AdapterCatalogue.read(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_a_number_of_thousands_of_digits_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"row 1: rank .*characters") as refused:
        read(tmp_path, f"{HEADER}a,{MODEL},{'9' * 5000},1\n")
    assert len(str(refused.value)) < 400


def test_blanks_quotes_marks_and_further_columns_are_no_harm(tmp_path: Path) -> None:
    rows = f'\n{HEADER[:-1]},note\n\n "a" ,{MODEL},8,1,"x,\ny"\n   \nb, {MODEL},"8",2\n'
    assert read(tmp_path, "\ufeff" + rows.replace(' "a" ', " a ")).names.tolist() == ["a", "b"]
    (tmp_path / "adapters.csv.gz").write_bytes(gzip.compress((HEADER + ROW).encode()))
    assert AdapterCatalogue.read(tmp_path / "adapters.csv.gz").names.tolist() == ["a"]


def test_a_frame_with_a_column_twice_is_refused() -> None:
    columns = ["adapter", "base_model", "rank", "rank", "rate_rps"]
    with pytest.raises(CatalogueError, match="'rank' is there 2 times"):
        AdapterCatalogue.from_frame(pd.DataFrame([["a", MODEL, 8, 8, 1.0]], columns=columns))
