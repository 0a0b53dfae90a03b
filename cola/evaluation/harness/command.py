"""The harness's own command line, with the model type `cola` registered."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lm_eval.__main__ import cli_evaluate


def run(arguments: Sequence[str]) -> None:
    """Do what `lm_eval ARGUMENTS` does; its exits (`SystemExit`) are passed on.

    Raises:
        SpecError: for invalid arguments of the model.
    """
    before = sys.argv
    sys.argv = ["lm_eval", *arguments]  # the harness reads no others
    try:
        cli_evaluate()
    finally:
        sys.argv = before
