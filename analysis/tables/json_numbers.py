"""Numbers as JSON can have them."""

from __future__ import annotations

import json
import math
from typing import Any


def without_nan(value: Any) -> Any:
    """Numbers that are not defined become null: JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    """A command's answer for `--json`."""
    return json.dumps(without_nan(value), indent=1, allow_nan=False)
