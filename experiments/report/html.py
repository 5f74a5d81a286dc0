"""Elements of a page. All text is escaped in one place, where the tree is written."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from inf_former_jax.files import printable

#: What a browser may load: the page's own style, and pictures that are in the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def tag(name: str, *inside: Element | str, **attributes: str) -> Element:
    """An element; `class_` is its class. Control characters of texts become their pictures."""
    made = Element(name, {key.rstrip("_"): printable(text) for key, text in attributes.items()})
    for part in inside:
        if isinstance(part, Element):
            made.append(part)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + printable(part)
        else:
            made.text = (made.text or "") + printable(part)
    return made


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Element | str]],
    caption: str = "",
    kind: str = "",
) -> Element:
    """A table whose first cell of a row names the row; a wide one can be scrolled.

    Args:
        kind: a class of the style sheet.
    """
    names = tag("tr", *(tag("th", name, scope="col") for name in header))
    lines = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    parts = [tag("caption", caption)] if caption else []
    whole = tag("table", *parts, tag("thead", names), tag("tbody", *lines), class_=kind)
    return tag("div", whole, class_="wide")


def image(draw: Callable[..., None], text: str, *given: Any) -> Element:
    """A picture inside the page, as an SVG, which as an image runs no scripts.

    Args:
        draw: draws what is given into a file, as functions of `plots` do.
        text: what it shows, below it, and for those who do not see it.
    """
    buffer = io.BytesIO()
    draw(buffer, *given)
    source = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    return tag("figure", tag("img", src=source, alt=text), tag("figcaption", text))


def document(title: str, style: str, body: Iterable[Element]) -> str:
    """The text of a page that loads nothing.

    Args:
        style: the style sheet, which is trusted.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    )
    page = tag("html", head, tag("body", *body), lang="en")
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html")
