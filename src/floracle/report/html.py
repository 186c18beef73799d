"""Reports that need nothing else: no network, no scripts, no fonts of their own."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from torch import Tensor

from floracle.run.images import enlarge, png
from floracle.version import VERSION

from .figure import Drawing, figure_style

LATENT_NOTE = (
    "Latents are shown by their three leading channels, the same projection everywhere;"
    " the colours have no meaning of their own. "
)
TILE_PIXELS = 32
"""Pixels a side of a picture in a strip, at least, so that it stays sharp when printed."""


def render_page(template: str, drawings: Iterable[Drawing], **values: Any) -> str:
    """A page from its template. A missing name is an error, and all values are escaped.

    `figures` in the template are the drawings by section of the page.
    """

    def text(name: str) -> str:
        return resources.files("floracle.report").joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(text)
    )
    values = {"version": VERSION, "figures": figures_by_section(drawings)} | values
    return environment.get_template(template).render(**values).rstrip("\n") + "\n"


def figures_by_section(drawings: Iterable[Drawing]) -> Mapping[str, list[dict[str, Any]]]:
    """Figures as SVG markup and sheets of pictures as PNG, each with its texts."""
    sections = defaultdict(list)
    with figure_style():  # text is laid out only as a figure is saved
        for drawing in drawings:
            image = (
                {"picture": data_uri(drawing.png())}
                if drawing.is_picture
                else {"svg": Markup(drawing.inline())}
            )
            texts = {"alt": drawing.alt, "caption": drawing.caption}
            sections[drawing.section].append(image | texts)
    return sections


def data_uri(content: bytes, kind: str = "png") -> str:
    """The bytes of a picture's file as an address that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_uris(pictures: Tensor) -> list[str]:
    """Pictures of bytes [n, C, H, W] as addresses."""
    return [data_uri(png(picture)) for picture in enlarge(pictures, TILE_PIXELS)]
