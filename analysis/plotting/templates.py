"""Report pages from their templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, content: dict[str, Any]) -> str:
    """Fill a template; a name it uses and `content` lacks is an error."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
