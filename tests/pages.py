"""What stands on a page, without its markup."""

from __future__ import annotations

import html
import re


def text_of(page: str) -> str:
    """The text of an HTML page, but for its styles; every cell of a table is followed by a bar, and
    powers have their sign."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).replace("<sup>", "^")
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</t[dh]>", "|", body)))
