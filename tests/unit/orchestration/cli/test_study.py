"""What `cola generate` and options of paths refuse, or say."""

from __future__ import annotations

import pytest

from cola.errors import SpecError
from cola.spec import DataSpec
from cola.spec.locations import located
from orchestration.cli.options import output_folder
from orchestration.cli.study import check_is_text


def test_bytes_that_are_not_utf_8_are_named_with_their_option() -> None:
    check_is_text("--prompt", "Grüße 🙂\0")
    check_is_text("--right", None)
    with pytest.raises(SpecError, match=r"^--prompt: is not UTF-8 text \(byte 0xE9\)"):
        check_is_text("--prompt", b"caf\xe9".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_not_the_working_directory(path: str) -> None:
    with pytest.raises(SpecError, match="--output: an empty path"):
        output_folder(path)
    with pytest.raises(SpecError, match=r"corpus\.paths\.0=\s*: is an empty path"):
        located(DataSpec.parse({"corpus": {"source": "files", "paths": [path]}}))
