"""Pages from templates: the shell, the style and the charts that all pages share.

A page is one file that opens without a server. Everything that comes from results is untrusted: invisible characters
are taken out, templates escape the rest, data for scripts travel as JSON that cannot close its element, and a content
security policy forbids a page any request.

A package's own template extends ``shared/base.html.j2`` and includes what it needs of ``shared/``:

- ``base.html.j2``: the shell. Blocks: ``title``, ``heading``, ``intro``, ``navigation``, ``main``, ``scripts``.
- ``style.css``: the look, light and dark; the shell includes it.
- ``page.js``: the button for light and dark, and tables of class ``sortable``; the shell includes it.
- ``charts.js``: charts as SVG, 19 kB instead of a library's megabytes; a page with charts includes it in ``scripts``.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from recbole_llm.utils.environment import package_version
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import price_text, visible


def render_page(package: str, template: str, **values: Any) -> str:
    """A page as text.

    Args:
        package: module whose folder ``templates`` has the template.
        template: its file name.
        values: what it shows; a name that it uses and that is not given is an error.
    """
    own, shared = jinja2.PackageLoader(package), jinja2.PackageLoader("recbole_llm.pages")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, jinja2.PrefixLoader({"shared": shared})]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["price"] = price_text
    values = {name: _shown(value) for name, value in values.items()}
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template).render(version=package_version(), created=created, **values)


def _shown(value: Any) -> Any:
    """A value whose texts have no invisible characters: some turn the direction of what stands beside them."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(part) for part in value]
    return _shown(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    with whole_file(path, "w") as stream:
        stream.write(page)
