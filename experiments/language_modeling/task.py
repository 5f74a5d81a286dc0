"""One run of the language-modelling experiment: its streams, its evaluations, its report."""

import collections
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer

from experiments.language_modeling import plots, start
from experiments.language_modeling.config import PRESETS, LanguageModelingConfig
from experiments.language_modeling.corpora import Corpus, corpus_of
from experiments.language_modeling.distance import ByDistance, index
from experiments.language_modeling.sample import continuation, writer
from experiments.run import controls, devices, tables, training
from experiments.run.batches import fresh_memory, on_host, placed
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site, Task
from experiments.run.lower import LowerOnce
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.streams import Streams, pieces
from inf_former_jax.files import printable
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.training import evaluation, sharding
from inf_former_jax.training.state import TrainState

#: Segments of an evaluation's batch: the device reads so many before the host takes the losses.
_EVALUATED = 8


def check(cfg: LanguageModelingConfig) -> None:
    """Refuse what would fail only after minutes, or silently.

    Raises:
        ValueError: an option out of range, or options that do not fit each other or the data.
    """
    training.check(cfg)
    start.parameters(cfg)
    streams(cfg, corpus_of(cfg))


def facts(corpus: Corpus) -> dict[str, Any]:
    """What was read: sizes of the splits, as the result holds them."""
    return {
        "corpus": corpus.name,
        "splits": {
            name: {
                "documents": len(split.names),
                "tokens": len(split.tokens),
                "words": int(split.words.sum()),
                "bytes": int(split.bytes.sum()),
                "skipped": list(split.skipped),
                "dropped": split.dropped,
            }
            for name, split in corpus.splits.items()
        },
    }


def streams(cfg: LanguageModelingConfig, corpus: Corpus) -> dict[str, Streams]:
    """The rows of every split of the corpus; rows for an evaluation are read in order.

    Raises:
        ValueError: a document shorter than two tokens, or an option out of range.
    """
    length = cfg.model.segment_len
    found = {}
    for name, split in corpus.splits.items():
        if name == "train":
            split = pieces(split, cfg.piece * length) if cfg.piece else split
            found[name] = Streams(
                split, cfg.batch_size, length, cfg.segments, cfg.seed, shuffle=True
            )
        else:
            found[name] = Streams(split, _rows(cfg, split), length, _EVALUATED)
    return found


def _rows(cfg: LanguageModelingConfig, split: TokenizedSplit) -> int:
    """Rows of an evaluation: as many as keep documents busy, split evenly over the devices."""
    parts = sharding.row_devices(devices.mesh_of(cfg))
    return parts * max(1, min(cfg.batch_size, len(split.names)) // parts)


class LanguageModeling(Task):
    """Documents that are read from beginning to end, each row its own."""

    best, higher_is_better = "loss", False

    def __init__(self, cfg: LanguageModelingConfig, corpus: Corpus, site: Site, params: Any = None):
        self._cfg, self._corpus, self._mesh, self._ops = cfg, corpus, site.mesh, site.operators
        self.params, self.facts = params, facts(corpus)
        self._streams = streams(cfg, corpus)
        self._steps = controls.eval_steps(cfg, site.mesh, evaluation.make_token_step)
        self._lower = LowerOnce(cfg, site.mesh)
        tokens = cfg.segments * cfg.model.segment_len
        self.row = f"rows of {tokens:,} tokens of {corpus.name}"
        # Padding is not counted. Another text, which is only evaluated, has no train.
        train = self._streams.get("train")
        self.tokens_per_step = round(cfg.batch_size * tokens * (train.fill if train else 1))

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Segments of the training documents, epoch after epoch."""
        return self._streams["train"].batch(update, rows)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy and perplexities on the validation documents."""
        figures = self.figures(state, "valid", controls.trained(self._cfg))
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def figures(
        self,
        state: TrainState,
        split: str,
        control: Control,
        stride: int = 0,
        words: ByDistance | None = None,
    ) -> dict[str, Any]:
        """Figures of every document of a split, each read once from its beginning.

        Args:
            stride: of the sliding window; 0 = segments one after the other.
            words: of the split; then `by_distance` holds its result.

        Returns:
            loss (nats a token) and accuracy; perplexity (a token), word_perplexity,
            bits_per_byte; by_segment: lists of equal length: `first` segment of a document, and
            the loss and the number of tokens from there to the next `first`.
        """
        rows = self._streams[split]
        if stride:
            sizes = rows.batch_size, rows.segment_len, rows.segments
            rows = Streams(rows.split, *sizes, stride=stride)
        token_step = self._steps[control]
        memory = fresh_memory(self._cfg.model, rows.batch_size, self._mesh)
        every = np.arange(rows.batch_size)
        sums = collections.defaultdict(lambda: np.zeros(3))  # bucket → nats, hits, tokens
        batches = placed(rows.batch, rows.batch_size, self._mesh)
        batches = self._lower.added(state.params, batches, rows.batch_size)
        for number, batch in zip(range(rows.steps_per_epoch), batches, strict=False):
            key = jax.random.fold_in(state.key, number)
            outputs, memory = token_step(state.params, memory, batch, self._ops, key)
            losses, hits = map(on_host, outputs)
            weights = rows.with_loss(number, every)
            losses = np.where(weights, losses.astype(np.float64), 0)
            places = rows.places(number, every)
            if words is not None:
                documents = np.broadcast_to(places.documents[..., None], weights.shape)
                words.add(documents[weights], places.positions[weights], losses[weights])
            buckets = _bucket(places.positions // rows.segment_len)
            for first in np.unique(buckets[weights]):
                here = weights & (buckets == first)
                sums[int(first)] += losses[here].sum(), hits[here].sum(), here.sum()
        nats, hits, tokens = np.sum(list(sums.values()), axis=0).tolist()
        firsts = sorted(sums)
        found = {} if words is None else {"by_distance": words.result()}
        return found | {
            "loss": nats / tokens,
            "accuracy": hits / tokens,
            "perplexity": math.exp(nats / tokens),
            "word_perplexity": rows.word_perplexity(nats),
            "bits_per_byte": rows.bits_per_byte(nats),
            "by_segment": {
                "first": firsts,
                "loss": [float(sums[first][0] / sums[first][2]) for first in firsts],
                "tokens": [int(sums[first][2]) for first in firsts],
            },
        }

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on validation and test documents, with the controls; a sample of text."""
        result: dict[str, Any] = {split: self.controls(state, split) for split in ("valid", "test")}
        result["padding"] = 1 - self._streams["train"].fill
        if self._cfg.sample and not self._cfg.objective.empty_memory:
            result["sample"] = self._sample(state)
        return result

    def controls(self, state: TrainState, split: str, window: int = 0) -> dict[str, dict[str, Any]]:
        """Figures of a split as trained, and of each control that every table shows.

        Args:
            window: sorts losses by distance in such lengths (`distance.py`); 0 = it does not.
        """

        words = None
        if window:
            words = index(self._corpus.splits[split], self._corpus.tokenizer, window)

        def figures(control: Control, stride: int = 0) -> dict[str, Any]:
            sums = None if words is None else ByDistance(words)
            return self.figures(state, split, control, stride, sums)

        names: list[Control] = ["emptied"]
        if self._streams[split].batch_size > sharding.row_devices(self._mesh):
            names.append("foreign")  # which takes a second row on each device
        found = controls.each(self._cfg, figures, names)
        model = self._cfg.model
        if not (model.long_term or model.compressed or model.mem_len):
            stride = max(model.segment_len // 2, 1)
            found["sliding window"] = figures("none", stride)
        return found

    def _sample(self, state: TrainState) -> dict[str, str]:
        """What the model writes after three segments of the first test document."""
        cfg, tokenizer, test = self._cfg, self._corpus.tokenizer, self._corpus.splits["test"]
        size = min(3 * cfg.model.segment_len, int(test.starts[1]) - 1)
        prompt = tokenizer.decode(test.at(slice(size)))
        model = writer(Decoder(cfg.model), state.params, tokenizer)
        written = continuation(model, prompt, cfg.sample, cfg.seed)
        return {"document": test.names[0], "after": prompt[-300:], "written": written}


def language_modeling(cfg: LanguageModelingConfig, site: Site) -> LanguageModeling:
    """The task of a run, whose folder keeps the tokeniser."""
    corpus = corpus_of(cfg)
    start.keep_tokenizer(corpus.tokenizer, site.folder)
    start.keep_template(cfg.tokenizer, site.folder)
    return LanguageModeling(cfg, corpus, site, start.parameters(cfg))


def _bucket(segments: Integer[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
    """The first segment of the bucket that holds each segment: buckets begin at 0, 1, 2, 4, 8, …"""
    floor = np.maximum(segments, 1)
    return np.where(segments < 1, 0, 2 ** np.floor(np.log2(floor)).astype(int))


def show(title: str, figures: dict[str, dict[str, Any]]) -> None:
    """Print the figures of a split, a row for each control."""
    columns = {
        "perplexity": "perplexity a token",
        "word_perplexity": "a word",
        "bits_per_byte": "bits a byte",
        "accuracy": "accuracy",
    }
    rows = [[label, *(f"{row[key]:.4g}" for key in columns)] for label, row in figures.items()]
    tables.show(title, ("", *columns.values()), rows, width=110)


def report(name: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its pictures."""
    title = f"{result['corpus']}, {name}"
    show(f"{title}, {result['steps']:,} updates", result["test"])
    plots.perplexity(folder / "perplexity.png", title, result)
    for split, found in result["splits"].items():
        if skipped := found.get("skipped"):
            print(printable(f"{split}: {len(skipped)} left out, {skipped[0]}"))
        if dropped := found.get("dropped"):
            print(f"{split}: {dropped:,} characters without a token left out")
    if "sample" in result:
        sample = result["sample"]
        print(printable(f"\n…{sample['after']}⟦{sample['written']}⟧\n"))
    print(f"{folder}/result.json, {folder}/perplexity.png")


LANGUAGE_MODELING = Experiment(
    "language_modeling",
    PRESETS,
    "gpt2-infinity-lasting",
    language_modeling,
    check,
    report,
    lambda cfg: (cfg.segments, 0),
    start.resolved,
)
