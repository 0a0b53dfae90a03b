"""The saved study that a report is made from, damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.cli import saved_study
from cola.errors import StorageError


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1]", b"{}", b"a: [", b"tracking: 3"])
def test_a_damaged_study_is_one_line_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        saved_study(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: is damaged (")
    assert message.endswith("`cola run` of the study writes it anew")
    assert "\n" not in message
