import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.errors import UserError
from maitre.tables import read_table


def written(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_are_read_by_name_and_the_others_left_out(tmp_path: Path) -> None:
    text = "\ufeffname , n,other\nNA,007,x\n\n b,1e3,y\n"
    table = read_table(written(tmp_path, text), ["name", "n"], ["absent"])
    assert table.texts("name") == ["NA", "b"]
    assert table.numbers("n").tolist() == [7.0, 1000.0]
    assert "absent" not in table
    assert list(table.lines) == [2, 4]


def test_a_column_may_be_called_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path, "Start,x\n1,2\n")
    assert read_table(path, ["at"], names={"at": "Start"}).seconds("at").tolist() == [1.0]
    with pytest.raises(UserError, match=r"table.csv:1: column 'Begin' is missing.*'Start', 'x'"):
        read_table(path, ["at"], names={"at": "Begin"})


def test_parquet_and_compressed_files_give_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1, 2], "name": ["a", "b"]})
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    for name in ("t.parquet", "t.csv.gz"):
        table = read_table(tmp_path / name, ["n", "name"])
        assert table.numbers("n", whole=True).tolist() == [1, 2]
        assert table.texts("name") == ["a", "b"]


BAD_FILES = {
    "no rows": ("n\n", r"table.csv: holds no rows"),
    "empty": ("", r"table.csv: is empty"),
    "column missing": ("m\n1\n", r"table.csv:1: column 'n' is missing; the file has 'm'"),
    "column twice": ("n,n\n1,2\n", r"table.csv:1: column 'n' stands 2 times"),
    "semicolons": ("n;m\n1;2\n", r"table.csv:1: columns are separated by semicolons"),
    "a field more": ("n,m\n1,2\n1,2,3\n", r"table.csv:3: has 3 fields: expected 2"),
    "a field less": ("n,m\n1\n", r"table.csv:2: has 1 fields: expected 2"),
    "open quote": ('n,m\n1,"2\n3,4\n', r"table.csv:2: not CSV: a quote is opened and never clos"),
    "a huge field": ("n\n1\n" + "9" * 140_000 + "\n", r"table.csv:3: .* more than 131,072 char"),
    "UTF-16": ("n\n1\n".encode("utf-16"), r"table.csv: is UTF-16 text"),
    "Latin-1": ("n\n1\né\n".encode("latin-1"), r"table.csv:3: not UTF-8 text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_would_be_read_wrong_is_refused_by_line(tmp_path: Path, case: str) -> None:
    text, message = BAD_FILES[case]
    with pytest.raises(UserError, match=message) as failed:
        read_table(written(tmp_path, text), ["n"])
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.xz", "t.csv.bz2", "t.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x1f\x8b\x08\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match=name):
        read_table(written(tmp_path, content, name), ["n"])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("nan", "must be a finite number; got 'nan'"),
        ("-inf", "must be a finite number; got '-inf'"),
        ("1e400", "must be a finite number; got '1e400'"),
        ("9" * 5000, r"must be a finite number; got '9+… \(5002 characters\)"),
        ("", "must be a number; got ''"),
        ("1_000", "must be a number; got '1_000'"),
        ("0x10", "must be a number"),
        ("1,5", "has 3 fields"),
        ("1e300", "must be at most 1e\\+15; got '1e300'"),
        ("-1", "must be at least 0; got '-1'"),
        ("0.5", "must be a whole number; got '0.5'"),
    ],
)
def test_a_value_that_is_no_such_number_is_refused_by_line_and_column(
    tmp_path: Path, cell: str, message: str
) -> None:
    path = written(tmp_path, f"name,n\na,1\nb,{cell}\n")
    with pytest.raises(UserError, match=rf"table.csv:3: (n: )?{message}"):
        read_table(path, ["n"]).numbers("n", at_least=0, whole=True)


@pytest.mark.parametrize("name", ["", " ", "a\0b"])
def test_a_name_is_not_empty(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"table.csv:2: name: must be a name"):
        read_table(written(tmp_path, f"name,n\n{name},1\n"), ["name"]).texts("name")


def test_an_empty_cell_may_stand_for_a_value(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "name,n\na,\nb,3\n"), ["n"])
    np.testing.assert_array_equal(table.numbers("n", empty=np.nan), [np.nan, 3.0])
    assert table.numbers("n", above=2, empty=0.0).tolist() == [0.0, 3.0]


def test_dates_count_in_seconds_since_1970(tmp_path: Path) -> None:
    text = "at\n1970-01-02\n1970-01-01 00:00:01.5\n1970-01-01T01:00:00.2500000+01:00\n"
    times = read_table(written(tmp_path, text), ["at"]).seconds("at")
    assert times.tolist() == [86400.0, 1.5, 0.25]
    frame = pd.DataFrame({"at": pd.to_datetime(["1970-01-01 00:00:01.5"])})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["at"]).seconds("at").tolist() == [1.5]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1970-01-02\n5", "table.csv:3: at: must be a date, as in other rows; got '5'"),
        ("soon", "table.csv:2: at: must be seconds or a date"),
        ("1e300", "must be at most 1e\\+11"),
        ("1700158546303000", "must be at most 1e\\+11"),
    ],
)
def test_times_that_are_neither_seconds_nor_dates_are_refused(
    tmp_path: Path, cells: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_table(written(tmp_path, f"at\n{cells}\n"), ["at"]).seconds("at")
