"""Report pages from their templates."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context
from markupsafe import Markup

from analysis.plotting.colours import definitions, mark
from analysis.plotting.glossary import Words, anchor, mathematics, meaning

SECTION = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor"')
CONTENTS = "<!--contents-->"
SCHEME = re.compile(r"/\*colours:(light|dark)\*/")


def without_tags(value: Any) -> Any:
    """The text with no HTML tag in it; what stands in code blocks (`| verbatim`) is left alone."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.replace("<", "&lt;")


def as_filter(escape: Callable[[str], str]) -> Callable[[Context, object], Markup]:
    """A filter that gives HTML; it asks for the context so that it runs where its text stands on
    the page, and of constants too."""

    @pass_context
    def filtered(_: Context, text: object) -> Markup:
        return Markup(escape(str(text)))  # noqa: S704 (it is what escapes)

    return filtered


def with_contents(page: str) -> str:
    """The page with links to its sections where its contents stand."""
    links = [f'<li><a href="#{name}">{title}</a></li>' for name, title in SECTION.findall(page)]
    return page.replace(CONTENTS, "\n".join(links), 1)


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
    words = Words()
    environment.filters |= {
        "verbatim": Markup,
        "mathematics": as_filter(mathematics),
        "prose": as_filter(words.in_prose),
        "head": as_filter(words.in_head),
        "mark": mark,
    }
    environment.globals |= {"words": words, "meaning": meaning, "anchor": anchor}
    page = with_contents(environment.get_template(template).render(content))
    colours = definitions(page)
    return SCHEME.sub(lambda match: colours[match[1]], page)
