"""Fills the templates of the HTML reports, which lie beside this file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def filled(template: str, filters: Mapping[str, Callable[[Any], str]], **values: Any) -> str:
    """Return a template with its values; text is escaped, and a name that is not given is an error.

    Args:
        template: name of its file.
        filters: what it calls to write values, by name.
        **values: what it shows.
    """
    # Jinja is loaded with the first report, not with the command line.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qcompile.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
