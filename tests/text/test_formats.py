"""Files of rows are read by the name of a field, packed or not, and what cannot be read says so."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow
import pytest
from pyarrow import parquet

import rcpu
from rcpu import RcpuError, from_upload, load_text
from rcpu.cli import main

ROWS = [
    {"text": "one\r\npage", "url": "https://example.org/1"},
    {"text": None, "url": "x"},
    {"text": "naïve, two;\ttabs"},
]
SAID = "one\npage\n\nnaïve, two;\ttabs"


def lines(rows=ROWS, end="\n") -> bytes:
    return end.join(json.dumps(row) for row in rows).encode()


def table(rows=ROWS, mark=",") -> bytes:
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, list(rows[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def columns(rows=ROWS) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FILES = {
    "a.jsonl": lines(),
    "crlf.jsonl": lines(end="\r\n") + b"\r\n\r\n",
    "bom.jsonl": b"\xef\xbb\xbf" + lines(),
    "a.ndjson": lines(),
    "lines.json": lines(),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "columns.json": json.dumps({"text": [row["text"] for row in ROWS], "url": ["x"] * 3}).encode(),
    "a.csv": table(),
    "semicolons.csv": table(mark=";"),
    "A.CSV": table(),
    "a.tsv": table(mark="\t"),
    "a.parquet": columns(),
    "a.jsonl.gz": gzip.compress(lines()),
    "a.csv.gz": gzip.compress(table()),
    "a.jsonl.bz2": bz2.compress(lines()),
    "a.jsonl.xz": lzma.compress(lines()),
    "unsaid.jsonl": gzip.compress(lines()),
    "prose.txt": SAID.encode(),
    "prose.txt.gz": gzip.compress(SAID.encode()),
    "prose": gzip.compress(SAID.encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_read_by_their_field(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    found = load_text(str(tmp_path / name))
    assert found.calibration == found.evaluation == SAID
    assert found.name == name
    assert from_upload(name, FILES[name]) == found


@pytest.mark.parametrize("name", [name for name in FILES if "prose" not in name and "columns" not in name])
def test_the_field_can_be_named(tmp_path, name):
    data = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        RcpuError, match=f"{name} has the fields text, url, but no field 'body': .* --text-field or as in {name}#text"
    ):
        load_text(str(tmp_path / name), "body")
    named = load_text(str(tmp_path / name) + "#url")
    assert "https://example.org/1" in named.calibration
    assert named == load_text(str(tmp_path / name), "url")
    assert named.name == f"{name}#url"


def test_a_name_may_hold_the_sign_itself(tmp_path):
    (tmp_path / "a#b.txt").write_text("prose")
    assert load_text(str(tmp_path / "a#b.txt")).calibration == "prose"


def test_a_field_makes_rows_of_a_file_without_a_suffix(tmp_path):
    (tmp_path / "pages.txt").write_bytes(lines())
    assert load_text(str(tmp_path / "pages.txt"), "text").calibration == SAID


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": "y"\n', "a.jsonl, line 2, is not JSON .*: expected an object a line"),
        ("a.jsonl", b'"text"\n', "row 1, is a str, expected an object with the field 'text'"),
        ("a.jsonl", b'{"text": ["x"]}\n', "row 1: 'text' is a list, expected a text"),
        ("a.jsonl", b'{"text": null}\n{"text": ""}\n', "a.jsonl is empty: .* no text in it"),
        ("a.json", b"3", "a.json holds a int, expected a list of objects"),
        ("a.csv", b"text\n", "a.csv is empty"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"caf\xe9", "a.csv is not UTF-8 text: byte 3 of 4"),
        ("a.parquet", b"text", "a.parquet is not a Parquet file"),
        ("a.parquet", columns()[:-40], "a.parquet is not a Parquet file that can be read"),
        ("a.parquet", columns([{"text": 3}]), "row 1: 'text' is a int, expected a text"),
        (
            "a.jsonl.gz",
            gzip.compress(lines(), mtime=0)[:-9],
            "a.jsonl.gz cannot be unpacked .*: copy or download it again",
        ),
        ("a.jsonl.gz", b"\x1f\x8b" + b"x" * 99, "a.jsonl.gz cannot be unpacked"),
        ("a.zip", b"PK\x03\x04" + b"\0" * 99, "a.zip is a zip archive, expected text in UTF-8, or rows as .jsonl"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 99, "a.jsonl.zst is a Zstandard archive, expected"),
        ("a.txt", b"%PDF-1.7\n", "a.txt is a PDF, expected"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\n", "a.txt is a git-lfs pointer, expected"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    for read in (lambda: load_text(str(tmp_path / name)), lambda: from_upload(name, data)):
        with pytest.raises(RcpuError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_what_unpacks_to_too_much_is_not_kept(tmp_path, monkeypatch):
    for limit in ("MAX_BYTES", "UPLOADED"):
        monkeypatch.setattr(f"rcpu.text.texts.{limit}", 2**20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"x" * 2**21))
    with pytest.raises(RcpuError, match=r"bomb.txt.gz unpacks to more than the 1 MiB that are read"):
        load_text(str(tmp_path / "bomb.txt.gz"))
    with pytest.raises(RcpuError, match="unpacks to more than the 1 MiB"):
        from_upload("bomb.txt.gz", (tmp_path / "bomb.txt.gz").read_bytes())


def test_the_command_line_reads_a_named_field(model_folder, tmp_path, capsys):
    rows = [{"content": "a page of the web " * 20, "url": "https://example.org/x"}] * 30
    (tmp_path / "web.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    command = ["perplexity", "--model", str(model_folder), "--device", "cpu", "--window", "16", "--max-windows", "4"]
    arguments = ["--text", str(tmp_path / "web.jsonl.gz")]
    assert main([*command, *arguments]) == 2
    assert "but no field 'text'" in capsys.readouterr().err
    assert main([*command, *arguments, "--text-field", "content", "--json", str(tmp_path / "a.json")]) == 0
    small = ["--samples", "4", "--held-out", "1", "--window", "16", "--out", str(tmp_path / "out")]
    prune = ["prune", "--model", str(model_folder), "--device", "cpu", *arguments, *small]
    assert main([*prune, "--text-field", "content"]) == 0
    record = json.loads((tmp_path / "out" / "rcpu_run.json").read_text())
    assert rcpu.load_text(record["recipe"]["text"]).calibration.startswith("a page of the web")
