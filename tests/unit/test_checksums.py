"""A folder with checksums is accepted only as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.checksums import CHECKSUMS_FILE, check_folder, damage_in, write_checksums
from cola.errors import StorageError

CONTENT = {"config.json": b"{}", "part/model.safetensors": bytes(range(256)), "empty": b""}


def written(folder: Path) -> Path:
    for name, content in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_checksums(folder)
    return folder


@settings(max_examples=60)
@given(st.integers(0, 255), st.integers(0, 7))
def test_every_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = written(tmp_path_factory.mktemp("model"))
    assert damage_in(folder) is None
    content = bytearray(CONTENT["part/model.safetensors"])
    content[place] ^= 1 << bit
    (folder / "part" / "model.safetensors").write_bytes(content)
    assert str(damage_in(folder)).startswith("part/model.safetensors was changed")


def test_each_kind_of_damage_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    def refusal(name: str) -> str:
        with pytest.raises(StorageError) as caught:
            check_folder(tmp_path / name, "export it again")
        return str(caught.value)

    cut, missing, folder = (written(tmp_path / name) for name in ("cut", "missing", "folder"))
    (cut / "config.json").write_bytes(b"{")
    assert refusal("cut") == (f"{cut}: config.json has 1 bytes, 2 were written; export it again")
    (missing / "empty").unlink()
    assert refusal("missing") == f"{missing}: empty is missing; export it again"
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    assert "empty is missing" in refusal("folder")


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '{"format": 2, "files": {}}', '{"format": 1, "files": []}',
        '{"format": 1, "files": {"a": {}}}',
        '{"format": 1, "files": {"../a": {"bytes": 1, "sha256": "0"}}}',
        '{"format": 1, "files": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}}',
        "\ud83d".encode("utf-8", "surrogatepass"),
    ],
)  # fmt: skip
def test_checksums_that_cannot_be_read_are_damage(content: str | bytes, tmp_path: Path) -> None:
    path = written(tmp_path) / CHECKSUMS_FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert damage_in(tmp_path) == f"{CHECKSUMS_FILE} is damaged"


def test_a_folder_without_checksums_is_not_checked(tmp_path: Path) -> None:
    (written(tmp_path) / CHECKSUMS_FILE).unlink()
    assert damage_in(tmp_path) is None


def test_what_people_edit_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a")
    write_checksums(tmp_path, leave_out=["README.md"])
    (tmp_path / "README.md").write_text("another")
    assert damage_in(tmp_path) is None
    assert json.loads((tmp_path / CHECKSUMS_FILE).read_text())["files"] == {}


def test_without_contents_only_names_and_sizes_are_compared(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "config.json").write_bytes(b"[]")
    assert damage_in(folder, contents=False) is None
    assert str(damage_in(folder)).startswith("config.json was changed")
    (folder / "config.json").write_bytes(b"[1]")
    assert damage_in(folder, contents=False) == "config.json has 3 bytes, 2 were written"
