"""Text without any setting: the Python standard library's own sources."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest

from cola.data import prepare
from cola.data.corpus_files import list_files
from cola.spec import DataSpec


def test_the_default_corpus_is_pythons_library() -> None:
    listing = list_files(DataSpec().corpus)
    names = {file.name for file in listing.files}
    assert len(names) > 400
    assert {"json/decoder.py", "asyncio/tasks.py"} < names
    assert not any({"test", "site-packages"} & set(Path(name).parts) for name in names)
    assert listing.bytes > 5_000 * 256  # a token is a byte or more


@pytest.mark.slow
def test_the_default_data_of_a_small_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, small = Path(sysconfig.get_paths()["stdlib"]), tmp_path / "library"
    for folder in ("asyncio", "email", "test/test_email"):
        shutil.copytree(library / folder, small / folder)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(small)})
    data = prepare(DataSpec(), tmp_path / "cache")
    assert data.meta["vocab_size"] == 4096
    files = [path for path in small.glob("[ae]*/**/*.py") if path.stat().st_size]
    assert data.meta["corpus_documents"] == len(files)
    assert len(data.train) > 500
    for split in ("validation", "test"):
        assert 0 < len(data.split(split)) < len(data.train) / 20
    code = "".join(data.tokenizer.decode(row.tolist()) for row in data.validation)
    assert "def " in code
    assert "import " in code
