"""A page for people: beside each generated reply, what of the document its densities cover.

    python -m experiments.dialogue page --run FOLDER [--options]

Replies are generated at places of test conversations, and `coverage` says where the attention was.
The page is one HTML file without scripts that fetches nothing: the text of the document once,
shaded by the layer that is chosen. The shades are one blue, on light and on dark ground. They
differ in lightness, so that any colour vision tells them apart, and the text on each has a contrast
of 4.5 : 1 or more.
"""

import dataclasses
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Annotated

import numpy as np

from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import corpus_of
from experiments.dialogue.coverage import Covered, covered
from experiments.dialogue.replies import answering, replies
from experiments.language_modeling.sample import writer
from experiments.run import cli, folders, training
from inf_former_jax.fields import Checked, Count, Required, Seed
from inf_former_jax.files import read_text, write_text
from inf_former_jax.require import require

_ROUNDING = 1e-3  # of sums of float32 shares
_STRIP, _TOP = 200, 5  # boxes of a strip, words of a row

#: The faintest shade begins at LEVELS[0] times a uniform mass, the next at LEVELS[1] times, …
LEVELS = 2.0 ** np.arange(-2, 7)


def _shades(grounds: str, texts: str) -> list[tuple[str, str]]:
    """(ground, text) of the page, then of each shade."""
    return list(zip(grounds.split(), texts.split(), strict=True))


LIGHT = _shades(
    "#ffffff #edf4fb #dae8f5 #bfd8ec #9ac6e1 #6fb0d8 #4a97c9 #2271b4 #0c529b #08306b",
    "#1b1f24 #1b1f24 #1b1f24 #1b1f24 #1b1f24 #1b1f24 #101418 #ffffff #ffffff #ffffff",
)
DARK = _shades(
    "#15191e #15293f #17375a #1a4775 #1f5890 #2a6aa8 #4f93c8 #7db2db #acd0ea #e0eef9",
    "#e3e7eb #e3e7eb #e3e7eb #f0f4f8 #ffffff #ffffff #0d1115 #0d1115 #0d1115 #0d1115",
)


@dataclasses.dataclass(frozen=True)
class PageConfig(Checked):
    """Which run is looked at."""

    run: Annotated[str, Required("the folder of a run of dialogue")] = ""
    """Folder of a run of dialogue whose document goes through a long-term memory."""
    replies: Count = 12
    """Replies on the page, at places drawn once for all runs."""
    seed: Seed = 0
    """Of the replies."""
    out: str = ""
    """The page's file; "" = page.html in the run's folder."""


def page(cfg: PageConfig) -> Path:
    """Write the page of a run.

    Raises:
        ValueError: no run, or one whose document does not go through a uniform long-term memory.
    """
    run, decoder, params, _ = training.load(DialogueConfig, cfg.run)
    memory = run.model.long_term
    layout = run.layout
    streamed = layout.streamed(run.model) and layout.document != "none"
    uniform = memory is not None and not memory.sticky and not run.objective.empty_memory
    require(
        uniform and streamed and layout.marks == "types",
        "run",
        cfg.run,
        "one with types whose document goes through a long-term memory that is neither sticky nor "
        "emptied",
    )
    corpus = corpus_of(run)
    model = writer(decoder, params, corpus.encoder.tokenizer)
    how = dataclasses.replace(answering(run), count=cfg.replies, seed=cfg.seed)
    answers = replies(model, corpus, corpus.test, how)
    file = Path(cfg.out or Path(cfg.run) / "page.html")
    title = f"{corpus.name}: what the memory covers, {Path(cfg.run).name}"
    write_page(file, title, covered(model, corpus, answers))
    return file


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.dialogue page --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.dialogue page", __doc__ or "", PageConfig(), argv)
    with cli.refusals():
        if cfg.out:
            folders.make(Path(cfg.out).absolute().parent)
        file = page(cfg)
    print(file)


def top_words(
    pieces: Sequence[str], mass: np.ndarray, count: int = _TOP
) -> list[tuple[str, float]]:
    """The words of the document with the largest mass [pieces], the largest first.

    The mass of a piece is shared equally by its characters other than white space. The mass of a
    word is the sum over its characters.
    """
    shares = [np.zeros(0)]
    for piece, share in zip(pieces, mass, strict=True):
        ink = np.array([not character.isspace() for character in piece], float)
        shares.append(ink * (share / max(ink.sum(), 1)))
    before = np.append(0, np.cumsum(np.concatenate(shares)))
    words = [
        (found.group(), float(before[found.end()] - before[found.start()]))
        for found in re.finditer(r"\S+", "".join(pieces))
    ]
    return sorted((word for word in words if word[1] > 0), key=lambda word: -word[1])[:count]


def levels(relative: np.ndarray) -> np.ndarray:
    """Shades 0 to 9 of masses relative to a uniform mass: how many of LEVELS they reach."""
    # Rounding must not split what is uniform into two shades.
    return np.searchsorted(LEVELS, np.asarray(relative) * (1 + 1e-6))


def write_page(path: Path | str, title: str, cards: Sequence[Covered]) -> None:
    """Write the page: a card for each reply, with history, both replies, layers and the document.

    The shade of a piece is by its mass times the number of pieces, which is 1 if all mass lies
    evenly on the document. The scale is the same everywhere.

    Raises:
        ValueError: no replies, no pieces, wrong shapes, or masses that are no shares of 1.
    """
    require(len(cards) > 0, "replies", "none", "one or more")
    for number, reply in enumerate(cards):
        _check(f"replies[{number}]", reply)
    bounds = ["¼", "½", *(f"{level:g}" for level in LEVELS[2:])]
    shades = [f'<span class="k{k}">{bound}</span>' for k, bound in enumerate(bounds, 1)]
    template = Template(read_text(Path(__file__).with_suffix(".html")))
    page = template.substitute(
        title=escape(title),
        rules=_rules(max(len(reply.mass) for reply in cards)),
        shades="".join(shades),
        cards="".join(_card(f"r{number}", reply) for number, reply in enumerate(cards)),
    )
    write_text(path, page)


def _check(name: str, reply: Covered) -> None:
    pieces = len(reply.pieces)
    require(pieces > 0, f"{name}.pieces", "none", "the document's tokens, one or more")
    shape, other = np.shape(reply.mass), np.shape(reply.elsewhere)
    fits = len(shape) == 2 and shape[0] > 0 and shape[1] == pieces
    require(fits, f"{name}.mass", f"shape {shape}", f"[layers, {pieces}] as the pieces")
    require(other == shape[:1], f"{name}.elsewhere", f"shape {other}", f"[{shape[0]}] as the mass")
    for field in ("mass", "elsewhere"):
        values = np.ravel(getattr(reply, field)).tolist()
        wrong = next((v for v in values if not abs(v - 0.5) <= 0.5 + _ROUNDING), None)
        require(wrong is None, f"{name}.{field}", wrong, "shares of 1, from 0 to 1")
    sums = np.sum(reply.mass, 1) + reply.elsewhere
    for layer, total in enumerate(sums.tolist()):
        found = f"{total:.4g} with elsewhere in layer {layer}"
        require(abs(total - 1) <= _ROUNDING, f"{name}.mass", found, "a sum of 1")


def _card(name: str, reply: Covered) -> str:
    mass, elsewhere = (np.clip(share, 0.0, 1.0) for share in (reply.mass, reply.elsewhere))
    shades = levels(mass * len(reply.pieces))
    turns = [_turn("", who, what) for who, what in reply.history]
    turns.append(_turn(" true", "true reply", reply.true_reply))
    turns.append(_turn(" reply", "generated reply", reply.reply))
    chosen = ["" if j else " checked" for j in range(len(mass))]
    inputs = [
        f'<input type="radio" name="{name}" id="{name}-{j}" class="L{j}"{checked}>'
        for j, checked in enumerate(chosen)
    ]
    rows = [_row(name, j, reply.pieces, mass[j], elsewhere[j]) for j in range(len(mass))]
    return (
        f"<article>\n<h2>{escape(reply.name)}</h2>\n{''.join(turns)}<div>\n{''.join(inputs)}\n"
        '<div class="rows"><p class="row heads"><span>layer</span><span>the document from '
        f"beginning to end</span><span>on it</span><span>elsewhere</span></p>\n{''.join(rows)}"
        f'</div>\n<div class="doc">{_document(reply.pieces, shades)}</div>\n</div>\n</article>\n'
    )


def _turn(kind: str, who: str, what: str) -> str:
    return f'<p class="turn{kind}"><b>{escape(who)}</b><span>{escape(what)}</span></p>\n'


def _row(name: str, layer: int, pieces: Sequence[str], mass: np.ndarray, elsewhere: float) -> str:
    words = [f"<b>{escape(word)}</b> {share:.1%}" for word, share in top_words(pieces, mass)]
    return (
        f'<label class="row R{layer}" for="{name}-{layer}"><span>{layer}</span>{_strip(mass)}'
        f"<span>{mass.sum():.1%}</span><span>{elsewhere:.1%}</span>"
        f'<span class="words">{" · ".join(words)}</span></label>\n'
    )


def _strip(mass: np.ndarray) -> str:
    """The mass over the document in at most 200 equal parts; equal neighbours share a box."""
    borders = np.linspace(0, len(mass), min(len(mass), _STRIP) + 1)
    below = np.interp(borders, np.arange(len(mass) + 1), np.append(0, np.cumsum(mass)))
    shades = levels(np.diff(below) * (len(borders) - 1))
    runs = [(shade, len(list(run))) for shade, run in groupby(shades)]
    boxes = "".join(f'<i class="k{shade}" style="flex:{width}"></i>' for shade, width in runs)
    return f'<span class="strip">{boxes}</span>'


def _document(pieces: Sequence[str], shades: np.ndarray) -> str:
    """The text. Neighbours with equal shades in all layers share a span; unshaded text has none."""
    parts = []
    columns = map(tuple, shades.T.tolist())
    for shade, run in groupby(zip(columns, pieces, strict=True), key=lambda pair: pair[0]):
        text = escape("".join(piece for _, piece in run))
        names = " ".join(f"m{j}-{k}" for j, k in enumerate(shade) if k)
        parts.append(f'<span class="{names}">{text}</span>' if names else text)
    return "".join(parts)


def _rules(layers: int) -> str:
    """The rules of the style sheet that depend on the shades and on the number of layers."""
    light, dark = (f":root{{{_variables(shades)}}}" for shades in (LIGHT, DARK))
    rules = [light, f"@media(prefers-color-scheme:dark){{{dark}}}"]
    rules += [f".k{k}{{{_painted(k)}}}" for k in range(len(LIGHT))]
    for j in range(layers):
        rules.append(f".L{j}:checked~.rows .R{j}{{border-color:var(--t0)}}")
        rules.append(f".L{j}:focus-visible~.rows .R{j}{{outline:2px solid var(--b6)}}")
        for k in range(1, len(LIGHT)):
            rules.append(f".L{j}:checked~.doc .m{j}-{k}{{{_painted(k)}}}")
    return "\n".join(rules)


def _variables(shades: Sequence[tuple[str, str]]) -> str:
    return "".join(f"--b{k}:{ground};--t{k}:{text};" for k, (ground, text) in enumerate(shades))


def _painted(shade: int) -> str:
    return f"background:var(--b{shade});color:var(--t{shade})"
