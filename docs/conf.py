"""Sphinx's configuration: `make docs` builds this folder into build/docs."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "inf_former_jax"
author = "The inf_former_jax authors"
copyright = "the inf_former_jax authors"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"inf_former_jax {release}"
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["execute_notebooks.py"]
smartquotes = False

# A link to a page, a heading or a function that does not exist is a warning, and `make docs` fails.
nitpicky = False  # signatures name types of jax and jaxtyping, whose pages are not here
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# docs/notebooks holds outputs: see docs/execute_notebooks.py.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):$")


def _as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` and indented formulas: say so to Sphinx.

    Formulas become literal blocks, sections become lists, and what reStructuredText would read as
    markup is escaped.
    """
    result, section, in_formula = [], False, False
    for line in lines:
        text, indented = line.strip(), line.startswith("    ")
        if heading := _SECTION.match(line):
            result += ["", f"**{heading[1]}**", ""]
            section, in_formula = True, False
        elif not text:
            result.append("")
            in_formula = False
        elif section and indented:
            deeper = line.startswith("        ") and result[-1]
            item = re.match(r"(\*{0,2}\w+(?:, \w+)*): (.*)", text)
            marker = "  " if deeper or not item else "* "
            if item and not deeper:
                text = f"{item[1]}: {item[2]}" if what == "data" else f"`{item[1]}`: {item[2]}"
            result.append(marker + _escaped(text))
        elif indented:
            if not in_formula:
                result += ["", "::", ""]
            result.append(line)
            in_formula = True
        else:
            section = False
            if in_formula:
                result.append("")
            result.append(_escaped(text))
            in_formula = False
    lines[:] = result


def _escaped(text):
    """`code` as ``code``; everything else without markup."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return re.sub(r"([*_|`\\])", r"\\\1", text)
    outside = [re.sub(r"([*_|\\])", r"\\\1", part) for part in parts[::2]]
    inside = [f"``{part}``" for part in parts[1::2]]
    return "".join(a + b for a, b in zip(outside, [*inside, ""], strict=True))


#: An array of the host or of a device, as jaxtyping spells the union out.
_ANY_ARRAY = re.compile(r"(\w+)\[jaxlib\._jax\.Array, ('[^']*')\] \| \1\[ndarray, \2\]")


def _short_signature(app, what, name, obj, options, signature, returns):
    """`Float[Array, 'B T']` for arrays of either kind."""

    def short(text):
        return text and _ANY_ARRAY.sub(r"\1[Array, \2]", text).replace("jaxlib._jax.Array", "Array")

    return short(signature), short(returns)


def setup(app):
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-signature", _short_signature)
    app.connect("autodoc-process-docstring", _as_restructured_text)
