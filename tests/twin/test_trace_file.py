"""Traces as they are published, and what is refused by row and column."""

import bz2
import gzip
import json
import lzma

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.errors import UserError
from maitre.twin import Workload
from maitre.twin.trace_file import FORMATS, read_trace

PUBLISHED = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,GPT-4,374,44,418,Conversation log\n9.314579,ChatGPT,396,109,505,API log\n"
    "9,ChatGPT,20,0,20,API log\n",
    "mooncake": '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n'
    '{"timestamp": 4314.579, "input_length": 396, "output_length": 109, "hash_ids": []}\n',
    "maitre": "arrival_s,adapter,input_tokens,output_tokens\n"
    "1700158546.25,007,374,44\n1700158550.564579,NA,396,109\n",
}

COMPRESS = {".csv.gz": gzip.compress, ".csv.xz": lzma.compress, ".csv.bz2": bz2.compress}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_trace_is_recognised_and_begins_at_its_first_request(name, tmp_path):
    suffix = "jsonl" if name == "mooncake" else "csv"
    path = write(tmp_path / f"trace.{suffix}", PUBLISHED[name])
    for found in (read_trace(path), read_trace(path, name)):
        assert found.format.name == name
        frame = found.frame
        first = 5.0 if name == "burstgpt" else 0.0
        assert frame["arrival_s"].tolist() == pytest.approx([first, first + 4.314579], abs=1e-5)
        assert frame["input_tokens"].tolist() == [374, 396]
        assert frame["output_tokens"].tolist() == [44, 109]
    zipped = tmp_path / f"trace.{suffix}.gz"
    zipped.write_bytes(gzip.compress(PUBLISHED[name].encode()))
    assert read_trace(zipped).frame.equals(frame)


def test_names_stay_text_and_what_is_left_out_or_shifted_is_noted(tmp_path):
    own = read_trace(write(tmp_path / "own.csv", PUBLISHED["maitre"]))
    assert own.frame["adapter"].tolist() == ["007", "NA"]
    assert own.notes == ("arrivals begin at 1700158546.250 s: shifted to 0",)
    burst = read_trace(write(tmp_path / "burst.csv", PUBLISHED["burstgpt"]))
    assert burst.frame["adapter"].tolist() == ["GPT-4", "ChatGPT"]
    assert burst.notes == ("1 of 3 requests have 0 tokens: left out",)
    assert read_trace(write(tmp_path / "azure.csv", PUBLISHED["azure"])).notes == ()


OWN = "arrival_s,adapter,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN + "0,a,1,1\n-1,a,1,1\n", "arrival_s: .* got row 2: '-1'"),
        (OWN + "0,a,1,1\n1e300,a,1,1\n", "arrival_s: .* got row 2: '1e300'"),
        (OWN + "0,a,1,1\n1700158546303,a,1,1\n", "arrival_s: .* since 1970; got row 2"),
        (OWN + "0,a,1,1\n2023-11-16,a,1,1\n", "arrival_s: .* got row 2: '2023-11-16'"),
        (OWN + "soon,a,1,1\n", "arrival_s: expected seconds, or a date and time .* row 1: 'soon'"),
        (OWN + "0,a,,1\n", "input_tokens: .* got row 1: ''"),
        (OWN + "0,a,1.5,1\n", "input_tokens: .* got row 1: '1.5'"),
        (OWN + "0,a,0,1\n", "input_tokens: expected a whole number of at least 1; got row 1: '0'"),
        (OWN + "0,a,1,inf\n", "output_tokens: .* got row 1: 'inf'"),
        (OWN + "0,a,1,99999999999\n", "output_tokens: .* got row 1"),
        (OWN + "0, ,1,1\n", "adapter: expected the name of an adapter; got row 1"),
        (OWN + "0,a,1,1\n1,a,1\n", "row 2: expected 4 fields; got 3: '1,a,1'"),
        (OWN + "0,a,1,1,9\n", "row 1: expected 4 fields; got 5"),
        (OWN, "has no rows"),
        ("", "no known trace"),
        ("arrival_s,adapter,arrival_s\n0,a,0\n", "the header has 'arrival_s' twice"),
        ("when,who\n0,a\n", "no known trace: there are 'when', 'who'; expected one of maitre: "),
        (PUBLISHED["burstgpt"].replace(",20,0,", ",-20,0,"), "Request tokens: .* row 3: '-20'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as found:
        read_trace(write(tmp_path / "bad.csv", text))
    assert str(tmp_path / "bad.csv") in str(found.value)
    assert "\n" not in str(found.value)


def test_a_format_that_the_file_is_not_of_names_its_columns(tmp_path):
    path = write(tmp_path / "trace.csv", PUBLISHED["vidur"])
    with pytest.raises(UserError, match=r"'TIMESTAMP', .* missing; there are 'arrived_at'"):
        read_trace(path, "azure")
    with pytest.raises(UserError, match="expected one of maitre, azure"):
        read_trace(path, "sharegpt")
    with pytest.raises(UserError, match="got no file"):
        read_trace(tmp_path / "nosuch.csv")


def test_a_line_that_is_not_a_json_object_is_named(tmp_path):
    good = json.loads(PUBLISHED["mooncake"].splitlines()[0])
    for bad in ("{", "[1]"):
        path = write(tmp_path / "bad.jsonl", json.dumps(good) + "\n" + bad + "\n")
        with pytest.raises(UserError, match="line 2"):
            read_trace(path)


def test_a_published_trace_is_replayed(tmp_path):
    found = read_trace(write(tmp_path / "burst.csv", PUBLISHED["burstgpt"]))
    workload = Workload.from_trace(found.frame, ranks={"GPT-4": 8, "ChatGPT": 16})
    assert workload.mean_tokens() == (385.0, 76.5)


CELL = st.one_of(
    st.sampled_from(["", "NA", "nan", "inf", "-1", "1e300", "9" * 400, "0x10", "\x00", "\ufeff"]),
    st.integers(-5, 10**12).map(str),
    st.text(max_size=8),
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=6), min_size=0, max_size=4),
    header=st.sampled_from([form.columns for form in FORMATS.values()]),
    line=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_no_table_ends_in_an_error_of_ours(rows, header, line, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "trace.csv"
    text = line.join(",".join(row) for row in [list(header), *rows])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    check_readable_or_refused(path)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(PUBLISHED)),
    suffix=st.sampled_from([".csv", ".csv.gz", ".csv.xz", ".csv.bz2", ".jsonl", ".parquet"]),
    cut=st.integers(0, 400),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
)
def test_no_damaged_file_ends_in_an_error_of_ours(name, suffix, cut, at, byte, tmp_path_factory):
    content = PUBLISHED[name].encode()
    content = COMPRESS.get(suffix, bytes)(content)
    content = content[: max(len(content) - cut, 0)]
    content = content[:at] + bytes([byte]) + content[at + 1 :]
    path = tmp_path_factory.mktemp("fuzz") / f"trace{suffix}"
    path.write_bytes(content)
    check_readable_or_refused(path)


def check_readable_or_refused(path):
    message = ""
    try:
        found = read_trace(path)
        Workload.from_trace(found.frame.assign(adapter="a"))
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_values_of_a_parquet_file_that_are_no_numbers_are_named(tmp_path):
    frame = pd.DataFrame(
        {"arrival_s": [0.0, 1.0], "adapter": ["a", "b"], "input_tokens": [[1], [2, 3]]}
    )
    frame.assign(output_tokens=5).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(UserError, match=r"input_tokens: .* got row 1"):
        read_trace(tmp_path / "lists.parquet")
    dated = frame.assign(
        arrival_s=pd.to_datetime(["2024-05-01 10:00", "2024-05-01 10:01"]),
        input_tokens=[7, 8],
        output_tokens=5,
    )
    dated.to_parquet(tmp_path / "dated.parquet")
    found = read_trace(tmp_path / "dated.parquet").frame
    assert found["arrival_s"].tolist() == [0.0, 60.0]
