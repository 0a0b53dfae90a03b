"""YAML that a command wrote, damaged: one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import StorageError
from cola.spec import load_saved_yaml


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1]", b"{}", b"a: [", b"tracking: 3"])
def test_a_damaged_study_is_one_line_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        load_saved_yaml(path, "tracking", "uri", what="study", command="`cola run` of the study")
    message = str(caught.value)
    assert message.startswith(f"{path}: is damaged (")
    assert message.endswith("`cola run` of the study writes it anew")
    assert "\n" not in message


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("tracking: {uri: null}")
    found = load_saved_yaml(tmp_path / "study.yaml", "tracking", "uri", what="study", command="")
    assert found == {"tracking": {"uri": None}}
