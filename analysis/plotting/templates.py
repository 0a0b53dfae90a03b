"""Report pages from their templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def without_tags(value: Any) -> Any:
    """The text with no HTML tag in it; what stands in code blocks (`| verbatim`) is left alone."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.replace("<", "&lt;")


def render(template: str, content: dict[str, Any]) -> str:
    """Fill a template; a name it uses and `content` lacks is an error."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Pages in Markdown may be shown by what runs the HTML in them.
        finalize=without_tags if template.endswith(".md.j2") else None,
    )
    environment.filters["verbatim"] = Markup
    return environment.get_template(template).render(content)
