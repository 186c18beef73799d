"""Pages that need nothing else: no network, no scripts, no fonts of their own."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from .plots import Drawing


def rendered(template: str, **values: Any) -> str:
    """A page from its template; a name that is missing is an error, and all values are escaped."""

    def text(name: str) -> str:
        return resources.files("floracle.report").joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(text)
    )
    return environment.get_template(template).render(**values)


def inlined(drawings: dict[str, Drawing]) -> dict[str, dict[str, str]]:
    """Drawings as markup, described in words."""
    return {
        name: {"svg": Markup(drawing.inline()), "alt": drawing.alt}
        for name, drawing in drawings.items()
    }


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture's file as an address that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
