"""One run of the dialogue experiment: perplexity of utterances, scores of replies, the report."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.dialogue import conversations as dialogue
from experiments.dialogue import corpus as dialogue_corpus
from experiments.dialogue import replies as dialogue_replies
from experiments.dialogue import scores
from experiments.dialogue.batches import ConversationBatches
from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import SPLITS, Corpus
from experiments.language_modeling import start as language_modeling_init
from experiments.results import dialogue as results_dialogue
from experiments.run import batches as batching
from experiments.run import training
from inf_former_jax.data.batches import Batch
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation, metrics, sharding
from inf_former_jax.training.state import TrainState

REPLIES = "replies.json"

ANOTHER = "another document"
"""Label of the control in which every conversation is read after a document it is not about."""


def run(cfg: DialogueConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics, replies and result into the folder."""
    corpus, params = corpus_of(cfg), language_modeling_init.parameters(cfg)
    language_modeling_init.keep_tokenizer(corpus.encoder.tokenizer, folder)
    if not jax.process_index():
        released = bool(cfg.data) and (Path(cfg.data) / "Conversations").is_dir()
        describe(corpus, released and cfg.reading == dialogue.Reading())
    return training.run(
        cfg, folder, provenance | facts(corpus),
        lambda mesh, ops: Dialogue(cfg, corpus, mesh, ops, folder), params,
    )  # fmt: skip


def describe(corpus: Corpus, released: bool) -> None:
    """Print what is in the splits; of CMU-DoG's release, what its publication says beside it."""
    from rich.console import Console
    from rich.table import Table

    title = f"{corpus.name}, as it is read"
    every = [one for name in SPLITS for one in getattr(corpus, name).conversations]
    rows = {name: getattr(corpus, name).conversations for name in SPLITS} | {"together": every}
    found = {name: dialogue.statistics(some) for name, some in rows.items()}
    if released:
        found["publication"] = dialogue.PUBLISHED
        title += f"; the release has {sum(dialogue.RELEASED.values()):,} conversations"
    table = Table(title=title, title_justify="left")
    for column in ("", "conversations", "documents", "utterances", "turns", "turns each",
                   "words a turn", "ratings"):  # fmt: skip
        table.add_column(column, justify="right" if column else "left")
    for name, row in found.items():
        counts = (row.conversations, row.documents, row.utterances, row.turns)
        means = (row.turns_per_conversation, row.words_per_turn)
        cells = ["" if value is None else f"{value:,}" for value in counts]
        cells += ["" if value is None else f"{value:.1f}" for value in means]
        ratings = ", ".join(f"{rating}: {count:,}" for rating, count in row.ratings.items())
        table.add_row(name, *cells, ratings)
    Console(width=120).print(table)


def facts(corpus: Corpus) -> dict[str, Any]:
    """What was read, for the result."""
    made = {}
    for name in SPLITS:
        split = getattr(corpus, name)
        said = dialogue.statistics(split.conversations)._asdict()
        said["ratings"] = {str(rating): n for rating, n in said["ratings"].items()}
        of = ConversationBatches(split.segments, 1)
        made[name] = said | {"tokens": of.num_read, "scored_tokens": of.num_predicted}
    return {"corpus": corpus.name, "splits": made}


def batches(cfg: DialogueConfig, corpus: Corpus) -> dict[str, ConversationBatches]:
    """The batches of every split.

    Raises:
        ValueError: a split in which nothing is scored, or an option out of range.
    """
    made = {}
    for name in SPLITS:
        train = name == "train"
        try:
            made[name] = ConversationBatches(
                getattr(corpus, name).segments, cfg.batch_size, cfg.seed if train else 0, train
            )
        except ValueError as error:
            raise ValueError(f"data: {name}: {error}") from error
    if corpus.encoder.layout.document != "none":
        other = dialogue_corpus.swapped(corpus.test, corpus.encoder)
        if other.segments:
            made["swapped"] = ConversationBatches(other.segments, cfg.batch_size)
    return made


class Dialogue:
    """The task as a run asks for it (`training.Task`).

    Args:
        ops: the model's operators on the devices of the mesh.
        folder: for the replies.
    """

    best, higher_is_better = "loss", False

    def __init__(self, cfg: DialogueConfig, corpus: Corpus, mesh: Mesh, ops: Any, folder: Path):
        self._cfg, self._corpus, self._mesh, self._ops = cfg, corpus, mesh, ops
        self._folder, self._batches = folder, batches(cfg, corpus)
        self._steps = {e: evaluation.make_eval_step(cfg.model, e) for e in (False, True)}
        self._memory = batching.fresh_memory(cfg.model, cfg.batch_size, mesh)
        train = self._batches["train"]
        read = train.num_read / train.steps_per_epoch
        self.row = (
            f"conversations of {read / cfg.batch_size:,.0f} tokens on average, up to "
            f"{train.segments} segments, {corpus.name}"
        )
        self.tokens_per_step = round(read)

    def batches(self, begin: int) -> Iterator[Batch]:
        """The training conversations, epoch after epoch."""
        number = begin
        while True:
            yield self._placed("train", number)
            number += 1

    def _placed(self, split, number):
        of = self._batches[split]
        return sharding.place_batch(
            lambda rows: of.batch(number, rows), self._cfg.batch_size, self._mesh
        )

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy and perplexity on the validation conversations."""
        return self.figures(now, "valid", self._cfg.objective.empty_memory)

    def figures(self, now: TrainState, split: str, empty_memory: bool) -> dict[str, float]:
        """Of all scored tokens of a split.

        Args:
            split: one of the batches' names, "swapped" among them: the test with other documents.
            empty_memory: clear the memory before every segment (the control).
        """
        total = None
        for number in range(self._batches[split].steps_per_epoch):
            key = jax.random.fold_in(now.key, number)
            sums, _ = self._steps[empty_memory](
                now.params, self._memory, self._placed(split, number), self._ops, key
            )
            total = metrics.add(total, sums)
        ratios = metrics.ratios(total)
        loss = ratios["loss"]
        return ratios | {"perplexity": math.exp(loss) if loss < 700 else math.inf}

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on validation and test conversations with the control; scores of replies."""
        cfg = self._cfg
        made = {
            split: {
                label: self.figures(final, split, empty)
                for label, empty in training.controls(cfg).items()
            }
            for split in ("valid", "test")
        }
        if "swapped" in self._batches:
            empty = cfg.objective.empty_memory
            made["test"][ANOTHER] = self.figures(final, "swapped", empty)
        # A few rows at a time: no mesh.
        params, ops = jax.device_get(final.params), jax.device_put(operators(cfg.model))
        decoder, split = Decoder(cfg.model), self._corpus.test
        said = dialogue_replies.replies(cfg, decoder, params, ops, self._corpus, split, cfg.seed)
        pairs = [one.reply for one in said], [one.true for one in said]
        found = scores.scores(*pairs, cfg.wordnet)._asdict()
        listed = dialogue_replies.as_json(said, split)
        if not jax.process_index():
            (self._folder / REPLIES).write_text(
                json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        return made | {"replies": found, "ten_replies": listed[:: max(1, len(listed) // 10)][:10]}


SCORES = tuple(results_dialogue.SCORES.values())


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the tables of a finished run, and ten replies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=130)
    title = f"{result['corpus']}, {name}, {result['steps']:,} updates"
    table = Table(title=title, title_justify="left")
    for column in ("", "perplexity, valid", "test", "accuracy, test"):
        table.add_column(column, justify="right" if column else "left")
    for label, row in result["test"].items():
        valid = result["valid"].get(label, {}).get("perplexity")
        cells = ["" if valid is None else f"{valid:.2f}", f"{row['perplexity']:.2f}"]
        table.add_row(label, *cells, f"{row['accuracy']:.3f}")
    console.print(table)
    table = Table(title=f"{result['replies']['count']} replies", title_justify="left")
    for column in SCORES:
        table.add_column(column, justify="right")
    table.add_row(*score_cells(result["replies"]))
    console.print(table)
    for one in result["ten_replies"]:
        console.print(f"[bold]{escape(one['before'])}[/]\n  true: {escape(one['true'])}\n"
                      f"  said: {escape(one['reply'])}")  # fmt: skip
    print(f"{folder}/result.json, {folder}/{REPLIES}")


def score_cells(found: dict[str, Any]) -> list[str]:
    """Cells by SCORES; empty where there is none."""
    return ["" if found.get(name) is None else f"{found[name]:.2f}" for name in SCORES]


def check(cfg: DialogueConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    least = {"valid_conversations": 0, "test_conversations": 0, "replies": 0, "reply_tokens": 1}
    for name, value in least.items():
        if getattr(cfg, name) < value:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: {value} or more")
    if not 0 <= cfg.temperature < float("inf"):
        raise ValueError(f"temperature: found {cfg.temperature}, accepted: a finite number ≥ 0")
    if not 0 < cfg.top_p <= 1:
        raise ValueError(f"top_p: found {cfg.top_p}, accepted: a number in (0, 1]")
    _check_layout(cfg)
    scores.require_libraries()
    if cfg.wordnet and (message := scores.missing(cfg.wordnet)):
        raise ValueError(message)
    training.check(cfg)
    language_modeling_init.parameters(cfg)
    batches(cfg, corpus_of(cfg))


def _check_layout(cfg):
    """A layout without the stream's document is for models that read no more than a segment."""
    model, layout = cfg.model, cfg.layout
    remembers = model.long_term or model.compressed or model.mem_len
    if not layout.window and layout.document != "none":
        if remembers:
            return
        raise ValueError(
            "layout: found a whole document for a model without any memory, accepted: window 3 or "
            "more, or document none"
        )
    if remembers:
        raise ValueError(
            f"layout: found window {layout.window} and document {layout.document} for a model with "
            f"a memory, accepted: window 0 and a document; the others are for gpt2"
        )
    if layout.window + cfg.reply_tokens >= model.segment_len:
        raise ValueError(
            f"reply_tokens: found {cfg.reply_tokens}, accepted: less than "
            f"{model.segment_len - layout.window}, what the window leaves of a segment"
        )


def corpus_of(cfg: DialogueConfig) -> dialogue_corpus.Corpus:
    """The conversations that a config asks for, in tokens."""
    limits = {"valid": cfg.valid_conversations, "test": cfg.test_conversations}
    return dialogue_corpus.corpus(
        cfg.data, cfg.tokenizer, cfg.model.vocab_size, cfg.cache, cfg.reading, cfg.layout,
        cfg.model.segment_len, limits,
    )  # fmt: skip


def resolved(cfg: DialogueConfig) -> DialogueConfig:
    """The config with the sizes and the tokeniser of what it begins with.

    Raises:
        ValueError, FileNotFoundError: as `language_modeling_init.resolved` does.
    """
    return language_modeling_init.resolved(cfg, more_ids=3)
