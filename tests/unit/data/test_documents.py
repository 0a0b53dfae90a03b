"""Every format in every compression gives its documents, or one line with place and remedy."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cola.data.documents import ReadCounts
from cola.data.sources import read_file_pieces, read_pieces
from cola.data.summary import left_out_of
from cola.errors import SpecError
from cola.spec import DataSpec
from tests.unit.data.corpora import COMPRESSIONS, ROWS, write_corpus

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
documents = st.lists(
    st.text(
        alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
    ).filter(str.strip),
    min_size=1,
    max_size=6,
)
here = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, **corpus: str) -> list[str]:
    values = {"corpus": {"source": "files", "paths": [str(path)], **corpus}}
    pieces = read_pieces(DataSpec.parse(values), ReadCounts())
    texts: list[str] = []
    for piece in pieces:
        texts += [piece.text] if piece.first else []
    return texts


def error_of(path: Path, **corpus: str) -> str:
    with pytest.raises(SpecError) as caught:
        read(path, **corpus)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", ROWS)
@here
@given(texts=documents)
def test_rows_come_back(ending: str, compression: str, tmp_path: Path, texts: list[str]) -> None:
    assert read(write_corpus(tmp_path, ending, compression, texts)) == texts


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", [".txt", ".md", ".py"])
def test_a_file_of_text_is_one_document(ending: str, compression: str, tmp_path: Path) -> None:
    path = write_corpus(tmp_path, ending, compression, ["one é\r\n", "{two}\n"])
    assert read(path) == ["one é\r\n{two}\n"]
    (piece,) = read_file_pieces([path], ReadCounts(), key="--held-out")
    assert (piece.text, piece.first) == ("one é\r\n{two}\n", True)


@pytest.mark.parametrize("name", ["A.JSONL", "a.NdJson", "a.b-00000-of-00002.JSON.GZ"])
def test_letter_case_and_further_dots_do_not_matter(name: str, tmp_path: Path) -> None:
    data = b'{"text": "one"}\n{"text": "two"}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith("GZ") else data)
    assert read(path) == ["one", "two"]


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name])
@pytest.mark.parametrize("ending", [*ROWS, ".txt"])
def test_the_first_bytes_decide_on_the_compression(
    ending: str, compression: str, tmp_path: Path
) -> None:
    texts = ["one", "two"]
    unpacked = write_corpus(tmp_path, ending, "", texts)
    expected = read(unpacked)
    misnamed = unpacked.rename(f"{unpacked}{compression}")
    assert read(misnamed) == expected
    packed = write_corpus(tmp_path, ending, compression, texts)
    assert read(packed.rename(unpacked)) == expected


TEXTS = [f"document {i}: é {i * i}" for i in range(300)]


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name])
@pytest.mark.parametrize("ending", [*ROWS, ".txt"])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.05, 0.999))
def test_a_compressed_file_cut_short_is_refused(
    ending: str, compression: str, tmp_path: Path, share: float
) -> None:
    path = write_corpus(tmp_path, ending, compression, TEXTS)
    content = path.read_bytes()
    path.write_bytes(content[: max(6, int(len(content) * share))])
    message = error_of(path)
    assert "cut short or damaged" in message or "cannot be read as Parquet" in message
    assert "copy it again" in message


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", ROWS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_never_ends_in_a_traceback(
    ending: str, compression: str, tmp_path: Path, data: st.DataObject
) -> None:
    path = write_corpus(tmp_path, ending, compression, TEXTS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = read(path)
    except SpecError:
        assert str(path) in error_of(path)
    else:
        assert all(isinstance(text, str) for text in found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n\n{oops\n', "line 3 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', 'line 2 is not a JSON object (["x"])'),
        ("a.jsonl", b'[{"text": "x"}]', "line 1 is not a JSON object but an array; name the file"),
        ("a.jsonl", b'[\n {"text": "x"}\n]', "line 1 is not a JSON object but an array; name the"),
        ("a.jsonl", b'{\n "text": "x"\n}', "the beginning of one; name the file .json"),
        (
            "a.jsonl",
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            "it is a binary file (an archive, say)",
        ),
        ("a.jsonl", b"PK\x03\x04\x14\0\xa9", "it is a binary file (an archive, say)"),
        ("a.jsonl.gz", POINTER, "is a Git LFS pointer in place of the file; fetch it"),
        ("a.parquet", POINTER, "is a Git LFS pointer in place of the file; fetch it"),
        ("a.txt", POINTER, "is a Git LFS pointer in place of the file; fetch it"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}\n', "byte 0xE9 in line 2"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y', "line 2 is not JSON (Unterminated string"),
        ("a.jsonl", b'{"body": "x"}\n', "no such field"),
        ("a.jsonl", b'{"text": 3}\n', "holds int, not text"),
        ("a.jsonl", b'{"text": ["x"]}\n', "holds list, not text"),
        ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON (nested too deeply)"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16-le"), "line 1 is not JSON (it holds NUL"),
        ("a.json", b'[{"text": "x"},\n{"text": "y"}\n', "line 3 is not JSON (a comma or ]"),
        ("a.json", b'[{"text": "x"},\n{"text": "y"', "line 2 is not JSON"),
        ("a.json", b'[{"text": "x"},\n\n "y"]', "line 3 is not a JSON object"),
        ("a.json", b'[{"text": "x"}]\n{}', "line 2 is not JSON (text behind the array's end)"),
        ("a.json", b'{"data": [{"text": "x"}]}', "one of: data"),
        ("a.json", b"3", "line 1 is not a JSON object"),
        ("a.csv", b"text,id\nx,1\ny\n", "line 3 has 1 fields, the header 2"),
        ("a.csv", b"text,id\nx, y,1\n", "line 2 has 3 fields, the header 2"),
        ("a.csv", b'text,id\n"x,1\ny,2\n', "line 2 is not CSV (unexpected end of data)"),
        ("a.csv", b"id;text\n1;x\n", "columns seem to be separated by ';'"),
        ("a.csv", b"title,body\n1,x\n", "one of: title, body"),
        ("a.csv", b"text,text\n1,x\n", "the header names 'text' twice"),
        ("a.csv", b"text,id\nx\0y,1\n", "line 2 holds a NUL character"),
        ("a.tsv", b"text\tid\nx\ty\tz\n", "line 2 has 3 fields, the header 2"),
        ("a.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
        ("a.parquet", b'{"text": "x"}', "cannot be read as Parquet"),
        ("a.txt", b"one\ntwo \xff", "is not UTF-8 text (byte 0xFF in line 2); convert it"),
        ("a.txt", "one\ntwo".encode("utf-16-be"), "line 1 holds a NUL character"),
        ("a.txt", "one".encode("utf-16")[:-1], "is not UTF-16 text"),
    ],
)
def test_what_is_wrong_has_its_line_and_the_remedy(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in error_of(path)


def test_a_long_cell_is_read_and_the_limit_of_other_readers_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write_corpus(tmp_path, ".csv", "", ["x" * (before + 1), "y"])
    data = DataSpec.parse({"corpus": {"source": "files", "paths": [str(path)]}})
    pieces = [piece.text for piece in read_pieces(data, ReadCounts())]
    assert "".join(pieces) == "x" * (before + 1) + "y"
    assert csv.field_size_limit() == before


def test_the_line_of_a_wrong_byte_is_exact_in_large_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é line\n".encode() * 200_000 + b"caf\xe9\n" + b"x" * 100)
    assert "byte 0xE9 in line 200001" in error_of(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".txt"])
def test_a_byte_order_mark_names_the_encoding(encoding: str, ending: str, tmp_path: Path) -> None:
    path = write_corpus(tmp_path, ending, "", ["naïve\r\ntext", "😀"])
    expected = read(path)
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert read(path) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_separates_rows(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(f'{{"text": "a"}}{end}{{"text": "b"}}{end}'.encode())
    (tmp_path / "b.csv").write_bytes(f"id,text{end}1,c{end}2,d{end}".encode())
    assert read(tmp_path) == ["a", "b", "c", "d"]


def test_separators_inside_of_json_texts_end_no_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x1ed"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False))
    assert read(tmp_path / "a.jsonl") == [text]


def test_an_array_larger_than_the_buffer(tmp_path: Path) -> None:
    texts = [f"{i} " + "x" * (i * 37 % 5000) for i in range(400)]
    path = write_corpus(tmp_path, ".json", ".gz", texts)
    assert [text[:2] for text in read(path)] == [text[:2] for text in texts]
    content = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert content[902].startswith('    "text"')
    content[902] = content[902].replace('"text"', "text")
    path.write_bytes(gzip.compress("\n".join(content).encode()))
    assert "line 903 is not JSON" in error_of(path)


def test_null_and_blank_texts_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": " "}\n{"text": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": null}\n')
    counts = ReadCounts()
    (piece,) = read_file_pieces([tmp_path], counts, key="--held-out")
    assert piece.text == "x"
    assert (counts.documents, counts.skipped_documents, counts.blank_documents) == (1, 2, 1)
    assert counts.files_without_text == ["b.jsonl"]
    assert left_out_of("the held-out text", counts) == [
        "left out of the held-out text: 2 rows whose text is null",
        "no text in 1 file of the held-out text: b.jsonl",
        "not read of the held-out text: 1 document without a visible character",
    ]
    with pytest.raises(SpecError, match=r"^--held-out=.*c\.jsonl: no such file or folder"):
        list(read_file_pieces([tmp_path / "c.jsonl"], ReadCounts(), key="--held-out"))


@pytest.mark.parametrize("text", ["BZhou wrote", "BZh9 and so on", "BZ", "BZh"])
def test_text_that_begins_as_bzip2_does_is_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert read(path) == [text]


def test_a_pipe_is_told_from_a_missing_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "is neither a file nor a folder, but a pipe" in error_of(tmp_path / "a.txt")
