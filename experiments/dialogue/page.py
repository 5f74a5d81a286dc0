"""A page that shows, beside each generated reply, what of the document its densities cover.

One HTML file without scripts and without anything fetched: the text of the document once, shaded by
the layer that is chosen.
"""

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.dialogue.style import LEVELS, head
from inf_former_jax.require import require

_ROUNDING = 1e-3  # of sums of float32 shares
_STRIP, _TOP = 200, 5  # boxes of a strip, words of a row


class Shown(NamedTuple):
    """A generated reply, and the shares of its densities' mass that fall on the document."""

    name: str  # of the conversation and the turn
    history: Sequence[tuple[str, str]]  # (who, what) of the turns before, the first one first
    true_reply: str
    reply: str
    pieces: Sequence[str]  # the document's tokens as text, "".join(pieces) is the document
    mass: np.ndarray  # [layers, pieces]; with elsewhere, a layer's sum to 1
    elsewhere: np.ndarray  # [layers], on earlier turns, on padding, outside of the signal


def on_document(
    parts: Sequence[tuple[np.ndarray, int]], start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mass [layers, stop - start], elsewhere [layers]) of a reply: `Shown`'s, from coverages.

    A reply may be read in several segments, between which further tokens are written. What is not
    written yet has no mass.

    Args:
        parts: of each segment: `memory.coverage.Coverage.tokens` of the row, stacked over layers
            [layers, W], and how many tokens of the reply it is the mean of.
        start: place of the document's first token in the stream; stop: that behind its last one.

    Raises:
        ValueError: no part, a part of no token, or no document.
    """
    counts = [count for _, count in parts]
    require(bool(counts and min(counts) > 0), "parts", f"of {counts} tokens", "each 1 or more")
    require(bool(0 <= start < stop), "stop", stop, f"more than start = {start} ≥ 0")
    mass = np.zeros((len(parts[0][0]), stop))
    for tokens, count in parts:
        written = np.asarray(tokens, float)[:, :stop]
        mass[:, : written.shape[1]] += written * (count / sum(counts))
    mass = mass[:, start:]
    return mass, np.maximum(1 - mass.sum(1), 0)


def top_words(
    pieces: Sequence[str], mass: np.ndarray, count: int = _TOP
) -> list[tuple[str, float]]:
    """The words of the document with the largest mass [pieces], the largest first.

    A piece's mass is shared by its characters other than white space; a word's is their sum.
    """
    shares = [np.zeros(0)]
    for piece, share in zip(pieces, mass, strict=True):
        ink = np.array([not character.isspace() for character in piece], float)
        shares.append(ink * (share / max(ink.sum(), 1)))
    before = np.append(0, np.cumsum(np.concatenate(shares)))
    words = [(found.group(), float(before[found.end()] - before[found.start()]))
             for found in re.finditer(r"\S+", "".join(pieces))]  # fmt: skip
    return sorted((word for word in words if word[1] > 0), key=lambda word: -word[1])[:count]


def levels(relative: np.ndarray) -> np.ndarray:
    """Shades 0 to 9 of masses relative to uniform: how many of LEVELS they reach."""
    # What is uniform but for rounding has one shade.
    return np.searchsorted(LEVELS, np.asarray(relative) * (1 + 1e-6))


def write_page(path: Path | str, title: str, replies: Sequence[Shown]) -> None:
    """Write the page: of each reply a card with history, both replies, layers and the document.

    A piece's shade is by its mass beside 1/pieces of all of it, the same scale everywhere.

    Raises:
        ValueError: no replies, no pieces, wrong shapes, or masses that are no shares of 1.
    """
    require(len(replies) > 0, "replies", "none", "one or more")
    for number, shown in enumerate(replies):
        _check(f"replies[{number}]", shown)
    layers = max(len(shown.mass) for shown in replies)
    cards = [_card(f"r{number}", shown) for number, shown in enumerate(replies)]
    body = f"<body>\n<h1>{escape(title)}</h1>\n{_legend()}\n{''.join(cards)}</body>\n</html>\n"
    Path(path).write_text(head(escape(title), layers) + body, encoding="utf-8")


def _check(name, shown):
    pieces = len(shown.pieces)
    require(pieces > 0, f"{name}.pieces", "none", "the document's tokens, one or more")
    shape, other = np.shape(shown.mass), np.shape(shown.elsewhere)
    fits = len(shape) == 2 and shape[0] > 0 and shape[1] == pieces
    require(fits, f"{name}.mass", f"shape {shape}", f"[layers, {pieces}] as the pieces")
    require(other == shape[:1], f"{name}.elsewhere", f"shape {other}", f"[{shape[0]}] as the mass")
    for field in ("mass", "elsewhere"):
        values = np.ravel(getattr(shown, field)).tolist()
        wrong = next((v for v in values if not abs(v - 0.5) <= 0.5 + _ROUNDING), None)
        require(wrong is None, f"{name}.{field}", wrong, "shares of 1, from 0 to 1")
    sums = np.sum(shown.mass, 1) + shown.elsewhere
    for layer, total in enumerate(sums.tolist()):
        found = f"{total:.4g} with elsewhere in layer {layer}"
        require(abs(total - 1) <= _ROUNDING, f"{name}.mass", found, "a sum of 1")


def _legend():
    bounds = ["¼", "½", *(f"{level:g}" for level in LEVELS[2:])]
    boxes = [f'<span class="k{k}">{bound}</span>' for k, bound in enumerate(bounds, 1)]
    return (
        '<p class="legend">Shade: how much of the attention’s mass lies on a piece of the '
        "document, beside what it would have if all of it lay on the document evenly: "
        f'<span class="k0">below</span>{"".join(boxes)}<span class="k0">times and more.</span> '
        "Mean over heads and the tokens of the reply. Choose a layer to see it in the text. "
        "Elsewhere: on earlier turns, or where nothing is stored. What is still in the short-term "
        "memory is not in the long-term one, and has no shade.</p>"
    )


def _card(name, shown):
    mass, elsewhere = (np.clip(share, 0.0, 1.0) for share in (shown.mass, shown.elsewhere))
    shades = levels(mass * len(shown.pieces))
    turns = [_turn("", who, what) for who, what in shown.history]
    turns.append(_turn(" true", "true reply", shown.true_reply))
    turns.append(_turn(" reply", "generated reply", shown.reply))
    chosen = ["" if j else " checked" for j in range(len(mass))]
    inputs = [f'<input type="radio" name="{name}" id="{name}-{j}" class="L{j}"{checked}>'
              for j, checked in enumerate(chosen)]  # fmt: skip
    rows = [_row(name, j, shown.pieces, mass[j], elsewhere[j]) for j in range(len(mass))]
    return (
        f"<article>\n<h2>{escape(shown.name)}</h2>\n{''.join(turns)}<div>\n{''.join(inputs)}\n"
        '<div class="rows"><p class="row heads"><span>layer</span><span>the document from '
        f"beginning to end</span><span>on it</span><span>elsewhere</span></p>\n{''.join(rows)}"
        f'</div>\n<div class="doc">{_document(shown.pieces, shades)}</div>\n</div>\n</article>\n'
    )


def _turn(kind, who, what):
    return f'<p class="turn{kind}"><b>{escape(who)}</b><span>{escape(what)}</span></p>\n'


def _row(name, layer, pieces, mass, elsewhere):
    words = [f"<b>{escape(word)}</b> {share:.1%}" for word, share in top_words(pieces, mass)]
    return (
        f'<label class="row R{layer}" for="{name}-{layer}"><span>{layer}</span>{_strip(mass)}'
        f"<span>{mass.sum():.1%}</span><span>{elsewhere:.1%}</span>"
        f'<span class="words">{" · ".join(words)}</span></label>\n'
    )


def _strip(mass):
    """The mass over the document in at most 200 equal parts; equal neighbours are one box."""
    borders = np.linspace(0, len(mass), min(len(mass), _STRIP) + 1)
    below = np.interp(borders, np.arange(len(mass) + 1), np.append(0, np.cumsum(mass)))
    shades = levels(np.diff(below) * (len(borders) - 1))
    runs = [(shade, len(list(run))) for shade, run in groupby(shades)]
    boxes = "".join(f'<i class="k{shade}" style="flex:{width}"></i>' for shade, width in runs)
    return f'<span class="strip">{boxes}</span>'


def _document(pieces, shades):
    """The text; neighbours of equal shades in all layers are one span, unshaded ones none."""
    parts = []
    columns = map(tuple, shades.T.tolist())
    for shade, run in groupby(zip(columns, pieces, strict=True), key=lambda pair: pair[0]):
        text = escape("".join(piece for _, piece in run))
        names = " ".join(f"m{j}-{k}" for j, k in enumerate(shade) if k)
        parts.append(f'<span class="{names}">{text}</span>' if names else text)
    return "".join(parts)
