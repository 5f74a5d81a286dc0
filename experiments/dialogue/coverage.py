"""What of the document a model's densities cover while it says a reply, as a page for people.

    python -m experiments.dialogue page --run FOLDER [--options]

Replies are generated at places of test conversations; then each is read once more, with all that
came before it, and at the queries that its tokens were predicted by the mass of every layer's
densities is taken for each token of the document. Uniform memories only: a sticky one does not keep
where it put its past.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.dialogue import replies as dialogue_replies
from experiments.dialogue import task as dialogue_task
from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import Corpus
from experiments.dialogue.page import Shown, on_document, write_page
from experiments.dialogue.replies import Reply
from experiments.run import cli, folders, training
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.memory import state
from inf_former_jax.memory.coverage import coverage
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.models.decoder import Decoder, operators


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """Which run is looked at."""

    run: str = ""
    """Folder of a run of dialogue whose document goes through a long-term memory."""
    replies: int = 12
    """Replies on the page, at places drawn once for all runs."""
    seed: int = 0
    """Of the replies."""
    out: str = ""
    """The page's file; "" = page.html in the run's folder."""


@partial(jax.jit, static_argnums=0)
def _read(decoder: Decoder, params, memory, tokens, types, ops):
    out = decoder.apply({"params": params}, tokens[None], memory, operators=ops, types=types[None])
    return out.memory, [layer["density"] for layer in out.info]


def _masses(decoder, params, ops, tokens, types, first):
    """Parts of `on_document`: of each segment in which a token from `first` on is predicted."""
    cfg, memory, parts = decoder.cfg, state.init(decoder.cfg, 1), []
    length = cfg.segment_len
    for begin in range(0, len(tokens) - 1, length):
        here = min(length, len(tokens) - begin)
        piece = np.zeros((2, length), np.int32)
        piece[:, :here] = tokens[begin : begin + here], types[begin : begin + here]
        memory, densities = _read(decoder, params, memory, *piece, ops)
        places = begin + np.arange(length)
        asks = (places >= first - 1) & (places < len(tokens) - 1)
        writes = int(memory.layers[0].long_term.writes[0])
        if asks.any() and not writes:  # nothing to cover yet
            parts.append((np.zeros((cfg.num_layers, 0)), int(asks.sum())))
        elif asks.any():
            of_layers = [
                coverage(
                    cfg.long_term, GaussianDensity(*map(np.asarray, density)), [length] * writes,
                    segment_len=length, where=asks[None],
                ).tokens[0]
                for density in densities
            ]  # fmt: skip
            parts.append((np.stack(of_layers), int(asks.sum())))
    return parts


def pieces(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """The text of each token; of several that make a character, the last one has it."""
    made, shown = [], 0
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        if text.endswith("\ufffd"):
            made.append("")
        else:
            made.append(text[shown:])
            shown = len(text)
    return made


def shown(
    decoder: Decoder, params: Any, ops: Any, corpus: Corpus, replies: Sequence[Reply]
) -> list[Shown]:
    """What the page shows of replies to test conversations."""
    encoder, split, made = corpus.encoder, corpus.test, []
    known: dict[bytes, list[str]] = {}
    for one in replies:
        encoded, talk = split.encoded[one.conversation], split.conversations[one.conversation]
        first = one.turn.start + 1
        said = encoder.tokenizer.encode(one.reply)
        tokens = np.concatenate([encoded.tokens[:first], said, [encoder.controls.end]])
        types = np.append(encoded.types[:first], np.full(len(said) + 1, encoded.types[first - 1]))
        parts = _masses(decoder, params, ops, tokens, types, first)
        start, stop = [span for span in encoded.documents if span[0] < one.turn.start][-1]
        start, stop = start + 1, stop - 1  # without <doc> and <eos>
        document = encoded.tokens[start:stop]
        key = document.tobytes()
        if key not in known:
            known[key] = pieces(encoder.tokenizer, document)
        mass, elsewhere = on_document(parts, start, stop)
        history = [(f"speaker {turn.speaker + 1}", turn.text)
                   for turn in talk.turns[max(0, one.turn.turn - 4) : one.turn.turn]]  # fmt: skip
        name = f"{talk.title or talk.name}, turn {one.turn.turn + 1}"
        made.append(Shown(name, history, one.true, one.reply, known[key], mass, elsewhere))
    return made


def page(cfg: PageConfig) -> Path:
    """Write the page of a run.

    Raises:
        ValueError: no run, or one whose document does not go through a uniform long-term memory.
    """
    given, decoder, params, _ = training.load(DialogueConfig, cfg.run)
    memory, layout = given.model.long_term, given.layout
    written = layout.document != "none" and not layout.window and not given.objective.empty_memory
    if memory is None or memory.sticky or not written:
        raise ValueError(
            f"run: found {cfg.run}, accepted: one whose document goes through a long-term memory "
            f"that is neither sticky nor emptied"
        )
    given = dataclasses.replace(given, replies=cfg.replies)
    corpus, ops = dialogue_task.corpus_of(given), jax.device_put(operators(given.model))
    said = dialogue_replies.replies(given, decoder, params, ops, corpus, corpus.test, cfg.seed)
    file = Path(cfg.out or Path(cfg.run) / "page.html")
    title = f"{corpus.name}: what the memory covers, {Path(cfg.run).name}"
    write_page(file, title, shown(decoder, params, ops, corpus, said))
    return file


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.dialogue page --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.dialogue page", __doc__, PageConfig(), argv)
    with cli.refusals():
        if not cfg.run:
            raise ValueError("run: found none, accepted: the folder of a run of dialogue")
        if cfg.replies < 1:
            raise ValueError(f"replies: found {cfg.replies}, accepted: 1 or more")
        if cfg.out:
            folders.made(Path(cfg.out).absolute().parent)
        file = page(cfg)
    print(file)
