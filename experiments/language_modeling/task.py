"""One run of the language-modelling experiment: its streams, its evaluations, its report."""

import collections
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments.language_modeling import corpora
from experiments.language_modeling import start as language_modeling_init
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.corpora import Corpus
from experiments.run import batches as batching
from experiments.run import training
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.streams import Streams, pieces
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.training import evaluation, sharding
from inf_former_jax.training.state import TrainState

#: Segments of a batch of an evaluation: how many the device reads before the host looks up.
_EVALUATED = 8


def run(cfg: LanguageModelingConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    corpus, params = corpora_of(cfg), language_modeling_init.parameters(cfg)
    language_modeling_init.keep_tokenizer(corpus.tokenizer, folder)
    return training.run(
        cfg, folder, provenance | facts(cfg, corpus),
        lambda mesh, ops: LanguageModeling(cfg, corpus, mesh, ops), params,
    )  # fmt: skip


def facts(cfg: LanguageModelingConfig, corpus: Corpus) -> dict[str, Any]:
    """What was read: sizes of the splits, for the result."""
    return {
        "corpus": corpus.name,
        "splits": {
            name: {
                "documents": len(split.names),
                "tokens": len(split.tokens),
                "words": int(split.words.sum()),
                "bytes": int(split.bytes.sum()),
            }
            for name, split in zip(("train", "valid", "test"), corpus[2:], strict=True)
            if split is not None
        },
    }


def streams(cfg: LanguageModelingConfig, corpus: Corpus) -> dict[str, Streams]:
    """The rows of every split that is there; those that are evaluated are read in order.

    Raises:
        ValueError: a document shorter than two tokens, or an option out of range.
    """
    length = cfg.model.segment_len
    made = {}
    if corpus.train is not None:
        train = pieces(corpus.train, cfg.piece * length) if cfg.piece else corpus.train
        rows = (cfg.batch_size, length, cfg.segments, cfg.seed, True)
        made["train"] = Streams(train, *rows)
    for name, split in (("valid", corpus.valid), ("test", corpus.test)):
        if split is not None:
            made[name] = Streams(split, _rows(cfg, split), length, _EVALUATED)
    return made


def _rows(cfg, split):
    """Rows of an evaluation: as many as documents keep busy, in multiples of the data axis."""
    data = sharding.make_mesh(cfg.mesh_model).shape["data"]
    return data * max(1, min(cfg.batch_size, len(split.names)) // data)


class _Tally(NamedTuple):
    """Sums over the tokens of a split."""

    nats: float
    right: float
    tokens: int
    by_segment: dict[int, list[float]]  # [nats, tokens] of the segments of that number


class LanguageModeling:
    """The task as a run asks for it (`training.Task`).

    Args:
        ops: the model's operators on the devices of the mesh.
    """

    best, higher_is_better = "loss", False

    def __init__(self, cfg: LanguageModelingConfig, corpus: Corpus, mesh: Mesh, ops: Any):
        self._cfg, self._mesh, self._ops, self.corpus = cfg, mesh, ops, corpus
        self._streams = streams(cfg, corpus)
        self._steps = {e: evaluation.make_token_step(cfg.model, e) for e in (False, True)}
        tokens = cfg.segments * cfg.model.segment_len
        self.row = f"rows of {tokens:,} tokens of {corpus.name}"
        self.tokens_per_step = cfg.batch_size * tokens

    def batches(self, begin: int) -> Iterator[Batch]:
        """The documents of the training text, epoch after epoch."""
        return self._batches(self._streams["train"], begin)

    def _batches(self, of: Streams, begin: int = 0) -> Iterator[Batch]:
        number = begin
        while True:
            yield sharding.place_batch(
                lambda rows, n=number: of.batch(n, rows), of.batch_size, self._mesh
            )
            number += 1

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy and perplexities on the validation documents."""
        figures = self.figures(now, "valid", self._cfg.objective.empty_memory)
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def figures(
        self, now: TrainState, split: str, empty_memory: bool, stride: int = 0
    ) -> dict[str, Any]:
        """Every document of a split, read once from its beginning.

        Args:
            empty_memory: clear the memory before every segment (the control).
            stride: of the sliding window; 0 = segments one after the other.

        Returns:
            loss (nats a token) and accuracy; perplexity (a token), word_perplexity,
            bits_per_byte; by_segment: lists of equal length, `first` segment of a document, loss
            and tokens from there to the next `first`.
        """
        of = self._streams[split]
        if stride:
            of = Streams(of.split, of.batch_size, of.segment_len, of.segments, stride=stride)
        tally = self._read(now, of, self._steps[empty_memory])
        loss = tally.nats / tally.tokens
        return {
            "loss": loss,
            "accuracy": tally.right / tally.tokens,
            "perplexity": math.exp(loss),
            "word_perplexity": of.word_perplexity(tally.nats),
            "bits_per_byte": of.bits_per_byte(tally.nats),
            "by_segment": {
                "first": sorted(tally.by_segment),
                "loss": [tally.by_segment[k][0] / tally.by_segment[k][1]
                         for k in sorted(tally.by_segment)],
                "tokens": [int(tally.by_segment[k][1]) for k in sorted(tally.by_segment)],
            },
        }  # fmt: skip

    def _read(self, now, of, token_step):
        memory = batching.fresh_memory(self._cfg.model, of.batch_size, self._mesh)
        nats = right = count = 0
        by_segment = collections.defaultdict(lambda: [0.0, 0.0])
        every = np.arange(of.batch_size)
        for number, batch in zip(range(of.steps_per_epoch), self._batches(of), strict=False):
            key = jax.random.fold_in(now.key, number)
            figures, memory = token_step(now.params, memory, batch, self._ops, key)
            losses, hits = map(_on_host, figures)
            weights = of.batch(number, every).weights > 0
            losses = np.where(weights, losses.astype(np.float64), 0)
            nats, right, count = (
                nats + losses.sum(),
                right + hits[weights].sum(),
                count + weights.sum(),
            )
            buckets = _bucket(of.places(number, every).positions // of.segment_len)
            for first in np.unique(buckets[weights]):
                here = weights & (buckets == first)
                by_segment[int(first)][0] += losses[here].sum()
                by_segment[int(first)][1] += here.sum()
        return _Tally(float(nats), float(right), int(count), by_segment)

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on validation and test documents, with the controls; a sample of text."""
        made = {split: self.controls(final, split) for split in ("valid", "test")}
        made["fill"] = self._streams["train"].fill
        if self._cfg.sample and not self._cfg.objective.empty_memory:
            made["sample"] = self._sample(final)
        return made

    def controls(self, final: TrainState, split: str) -> dict[str, dict[str, Any]]:
        """Figures of a split as trained, and with what stands beside it in every table."""
        asked = {label: (empty, 0) for label, empty in training.controls(self._cfg).items()}
        model = self._cfg.model
        if not (model.long_term or model.compressed or model.mem_len):
            asked["sliding window"] = (False, max(model.segment_len // 2, 1))
        return {
            label: self.figures(final, split, empty, stride)
            for label, (empty, stride) in asked.items()
        }

    def _sample(self, final):
        """What the model writes after three segments of the first test document."""
        from experiments.generate import continuation

        decoder, tokenizer = Decoder(self._cfg.model), self.corpus.tokenizer
        size = min(3 * decoder.cfg.segment_len, int(self.corpus.test.starts[1]) - 1)
        prompt = tokenizer.decode(self.corpus.test.tokens[:size])
        params = jax.device_get(final.params)  # one document: no mesh
        written = continuation(decoder, params, tokenizer, prompt, self._cfg.sample, self._cfg.seed)
        return {"document": self.corpus.test.names[0], "after": prompt[-300:], "written": written}


def _bucket(segments):
    """0, 1, 2, 4, 8, …: the power of two at which a segment's bucket begins."""
    floor = np.maximum(segments, 1)
    return np.where(segments < 1, 0, 2 ** np.floor(np.log2(floor)).astype(int))


def _on_host(array):
    """The whole array, wherever its rows are."""
    if jax.process_count() > 1:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures of a split, a row for each control."""
    from rich.console import Console
    from rich.table import Table

    made = Table("", title=title, title_justify="left")
    names = ("perplexity", "word_perplexity", "bits_per_byte", "accuracy")
    for column in ("perplexity a token", "a word", "bits a byte", "accuracy"):
        made.add_column(column, justify="right")
    for label, row in rows.items():
        made.add_row(label, *(f"{row[one]:.3f}" for one in names))
    Console(width=110).print(made)


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its pictures."""
    from experiments.language_modeling import plots as plots_text

    table(f"{result['corpus']}, {name}, {result['steps']:,} updates", result["test"])
    plots_text.perplexity(folder / "perplexity.png", f"{result['corpus']}, {name}", result)
    if "sample" in result:
        sample = result["sample"]
        print(f"\n…{sample['after']}⟦{sample['written']}⟧\n")
    print(f"{folder}/result.json, {folder}/perplexity.png")


def check(cfg: LanguageModelingConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    for name in ("piece", "valid_characters", "test_characters", "sample"):
        if getattr(cfg, name) < 0:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 0 or more")
    if cfg.segments < 1:
        raise ValueError(f"segments: found {cfg.segments}, accepted: 1 or more")
    training.check(cfg)
    language_modeling_init.parameters(cfg)
    streams(cfg, corpora_of(cfg))


def corpora_of(cfg: LanguageModelingConfig) -> corpora.Corpus:
    """The text that a config asks for, in tokens."""
    return corpora.corpus(
        cfg.data, cfg.tokenizer, cfg.model.vocab_size, cfg.cache, cfg.valid_characters,
        cfg.test_characters,
    )  # fmt: skip
