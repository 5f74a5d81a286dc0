"""One run of the dialogue experiment: perplexity of utterances, scores of replies, the report."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.dialogue import scores
from experiments.dialogue.batches import ConversationBatches
from experiments.dialogue.config import PRESETS, DialogueConfig
from experiments.dialogue.corpus import PUBLISHED, RELEASED, Corpus, corpus_of, statistics, swapped
from experiments.dialogue.records import Reading
from experiments.dialogue.replies import answering, as_json, replies
from experiments.dialogue.stream import remembers
from experiments.language_modeling import start
from experiments.language_modeling.sample import writer
from experiments.results.dialogue import ANOTHER
from experiments.run import controls, tables, training
from experiments.run.batches import fresh_memory, on_host, placed
from experiments.run.config import RunConfig
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site, Task
from experiments.run.lower import LowerOnce
from inf_former_jax.data.batches import Batch
from inf_former_jax.files import printable, write_json
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require
from inf_former_jax.training import evaluation
from inf_former_jax.training.state import TrainState

REPLIES = "replies.json"

# The last field counts the replies.
SCORES = tuple(field.name for field in dataclasses.fields(scores.Scores))[:-1]


def check(cfg: DialogueConfig) -> None:
    """Refuse what would fail only after minutes, or silently.

    Raises:
        ValueError: an option out of range, or options that do not fit each other or the data.
    """
    check_replies(cfg)
    training.check(cfg)
    found = "memory: the embeddings that tell speakers apart are new, and would never learn"
    fits = cfg.optim.trained == "all" or cfg.layout.marks == "template"
    require(fits, "optim.trained", found, "all, or layout.marks template")
    start.parameters(cfg)
    batches(cfg, corpus_of(cfg))


def check_replies(cfg: DialogueConfig) -> None:
    """Refuse replies that could not be made, or not be scored.

    Raises:
        ValueError: an option out of range, a layout that does not fit the model, or a package or
            WordNet that is not there.
    """
    answering(cfg)
    _check_layout(cfg)
    scores.require_libraries()
    if cfg.wordnet and (message := scores.missing(cfg.wordnet)):
        raise ValueError(message)


def _check_layout(cfg: DialogueConfig) -> None:
    """Only a model with a memory can stream the document; any other reads one segment at a time."""
    model, layout = cfg.model, cfg.layout
    if layout.streamed(model):
        found = "a whole document for a model without any memory"
        require(remembers(model), "layout", found, "window 3 or more, or document none")
        return
    found = f"window {layout.window} for a model with a memory"
    require(not remembers(model), "layout", found, "window 0; others are for gpt2")
    room = model.segment_len - layout.window
    accepted = f"less than {room}, what the window leaves of a segment"
    require(cfg.reply_tokens < room, "reply_tokens", cfg.reply_tokens, accepted)


def is_release(cfg: DialogueConfig) -> bool:
    """Whether all of CMU-DoG's release is read, as its publication counts it."""
    there = bool(cfg.data) and (Path(cfg.data) / "Conversations").is_dir()
    return there and cfg.reading == Reading()


def describe(corpus: Corpus, released: bool) -> None:
    """Print what is in the splits; for CMU-DoG's release also the figures of its publication."""
    title = f"{corpus.name}, as it is read"
    conversations = {name: split.conversations for name, split in corpus.splits.items()}
    conversations["together"] = [one for some in conversations.values() for one in some]
    found = {name: statistics(some) for name, some in conversations.items()}
    if released:
        found["publication"] = PUBLISHED
        title += f"; the release has {sum(RELEASED.values()):,} conversations"
    header = ("", "conversations", "documents", "utterances", "turns", "turns each")
    rows = []
    for name, row in found.items():
        counts = (row.conversations, row.documents, row.utterances, row.turns)
        means = (row.turns_per_conversation, row.words_per_turn)
        cells = ["" if value is None else f"{value:,}" for value in counts]
        cells += ["" if value is None else f"{value:.1f}" for value in means]
        ratings = ", ".join(f"{rating}: {count:,}" for rating, count in row.ratings.items())
        rows.append([name, *cells, ratings])
    tables.show(title, (*header, "words a turn", "ratings"), rows, width=120)
    for name, reasons in corpus.skipped.items():
        if reasons:
            print(printable(f"{name}: {len(reasons)} left out, {reasons[0]}"))
    if any(corpus.shared.values()):
        counts = ", ".join(f"{count} {where}" for where, count in corpus.shared.items())
        print(f"conversations with the same turns: {counts} (--keep-shared keeps all)")


def facts(corpus: Corpus) -> dict[str, Any]:
    """What was read, as the result holds it."""
    splits = {}
    for name, split in corpus.splits.items():
        found = statistics(split.conversations)._asdict()
        found["ratings"] = {str(rating): count for rating, count in found["ratings"].items()}
        epoch = ConversationBatches(split.segments, 1)
        splits[name] = found | {"tokens": epoch.num_read, "scored_tokens": epoch.num_predicted}
        splits[name]["skipped"] = corpus.skipped.get(name, [])
    read = {"corpus": corpus.name, "dropped": corpus.dropped, "shared": dict(corpus.shared)}
    return read | {"splits": splits}


def batches(cfg: RunConfig, corpus: Corpus) -> dict[str, ConversationBatches]:
    """The batches of every split; "swapped" are those of the test with other documents.

    Raises:
        ValueError: a split in which nothing is scored, or an option out of range.
    """
    found, typed = {}, corpus.encoder.marks.typed
    for name, split in corpus.splits.items():
        train = name == "train"
        try:
            found[name] = ConversationBatches(
                split.segments, cfg.batch_size, cfg.seed if train else 0, train, typed
            )
        except ValueError as error:
            raise ValueError(f"data: {name}: {error}") from error
    if corpus.encoder.layout.document != "none":
        other = swapped(corpus.test, corpus.encoder)
        if other.segments:
            found["swapped"] = ConversationBatches(other.segments, cfg.batch_size, typed=typed)
    return found


class ConversationTask(Task):
    """Training and evaluation on conversations; a subclass says what the result holds."""

    best, higher_is_better = "loss", False

    def __init__(self, cfg: RunConfig, corpus: Corpus, site: Site):
        self._cfg, self._corpus, self._mesh, self._ops = cfg, corpus, site.mesh, site.operators
        self._batches = batches(cfg, corpus)
        self._steps = controls.eval_steps(cfg, site.mesh, evaluation.make_token_step)
        self._memory = fresh_memory(cfg.model, cfg.batch_size, site.mesh)
        self._lower = LowerOnce(cfg, site.mesh)
        train = self._batches["train"]
        read = train.num_read / train.steps_per_epoch
        self.row = (
            f"conversations of {read / cfg.batch_size:,.0f} tokens on average, up to "
            f"{train.segments} segments, {corpus.name}"
        )
        self.tokens_per_step = round(read)

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Training conversations, epoch after epoch."""
        return self._batches["train"].batch(update, rows)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy and perplexity on the validation conversations."""
        figures = self.figures(state, "valid", controls.trained(self._cfg))
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def figures(self, state: TrainState, split: str, control: Control) -> dict[str, Any]:
        """Figures over all scored tokens of a split.

        Args:
            split: a key of `batches`.

        Returns:
            loss (nats a token), accuracy and perplexity; by_conversation: lists of equal length,
            nats and tokens of each conversation in the split's order.
        """
        some, token_step = self._batches[split], self._steps[control]
        rows = np.arange(some.batch_size)
        sums = np.zeros((len(some.conversations), 3))  # nats, hits, tokens
        every = placed(some.batch, some.batch_size, self._mesh)
        every = self._lower.added(state.params, every, some.batch_size)
        for number, batch in zip(range(some.steps_per_epoch), every, strict=False):
            key = jax.random.fold_in(state.key, number)
            outputs, _ = token_step(state.params, self._memory, batch, self._ops, key)
            nats, hits = (on_host(part).astype(np.float64) for part in outputs)
            weights = some.batch(number, rows).weights > 0
            held = some.numbers(number)
            found = [np.where(weights, part, 0).sum((1, 2)) for part in (nats, hits, weights)]
            sums[held[held >= 0]] = np.stack(found, 1)[held >= 0]
        nats, hits, tokens = sums.sum(0).tolist()
        loss = nats / tokens
        return {
            "loss": loss,
            "accuracy": hits / tokens,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "by_conversation": {
                "nats": sums[:, 0].round(4).tolist(),
                "tokens": sums[:, 2].astype(int).tolist(),
            },
        }


class Dialogue(ConversationTask):
    """The dialogue experiment's task; replies are written into the run folder."""

    def __init__(self, cfg: DialogueConfig, corpus: Corpus, site: Site):
        super().__init__(cfg, corpus, site)
        self._dialogue, self._folder = cfg, site.folder
        self.params, self.facts = start.parameters(cfg), facts(corpus)

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on validation and test conversations with the controls; scores of replies."""
        return {"valid": self._controls(state, "valid"), **self.tested(state)}

    def tested(self, state: TrainState) -> dict[str, Any]:
        """Figures on test conversations with the controls; scores of replies."""
        cfg = self._dialogue
        result: dict[str, Any] = {"test": self._controls(state, "test")}
        if "swapped" in self._batches:
            result["test"][ANOTHER] = self.figures(state, "swapped", controls.trained(cfg))
        tokenizer, split = self._corpus.encoder.tokenizer, self._corpus.test
        model = writer(Decoder(cfg.model), state.params, tokenizer)
        answers = replies(model, self._corpus, split, answering(cfg))
        pairs = [one.reply for one in answers], [one.true for one in answers]
        result["replies"] = dataclasses.asdict(scores.scores(*pairs, cfg.wordnet))
        rows = as_json(answers, split)
        result["ten_replies"] = rows[:: max(1, len(rows) // 10)][:10]
        if not jax.process_index():
            write_json(self._folder / REPLIES, rows)
        return result

    def _controls(self, state: TrainState, split: str) -> dict[str, Any]:
        figures = functools.partial(self.figures, state, split)
        return controls.each(self._dialogue, figures, ("emptied",))


def dialogue(cfg: DialogueConfig, site: Site) -> Dialogue:
    """The task of a run, whose data are described and whose folder keeps the tokeniser."""
    corpus = corpus_of(cfg)
    start.keep_tokenizer(corpus.encoder.tokenizer, site.folder)
    start.keep_template(cfg.tokenizer, site.folder)
    if not jax.process_index():
        describe(corpus, is_release(cfg))
    return Dialogue(cfg, corpus, site)


def report(name: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the tables of a finished run, and ten replies."""
    show(f"{result['corpus']}, {name}, {result['steps']:,} updates", result)
    print(f"{folder}/result.json, {folder}/{REPLIES}")


def show(title: str, result: Mapping[str, Any]) -> None:
    """Print the tables of a result's figures, and ten replies."""
    from rich.console import Console

    rows = []
    for label, row in result["test"].items():
        valid = result.get("valid", {}).get(label, {}).get("perplexity")
        cells = ["" if valid is None else f"{valid:.2f}", f"{row['perplexity']:.2f}"]
        rows.append([label, *cells, f"{row['accuracy']:.3f}"])
    tables.show(title, ("", "perplexity, valid", "test", "accuracy, test"), rows, width=130)
    found = result["replies"]
    cells = ["" if found.get(key) is None else f"{found[key]:.2f}" for key in SCORES]
    tables.show(f"{found['count']} replies", SCORES, [cells], width=130)
    console = Console(width=130)
    for one in result["ten_replies"]:
        before, true, said = (tables.foreign(one[key]) for key in ("before", "true", "reply"))
        console.print(f"[bold]{before}[/]\n  true: {true}\n  said: {said}")


def _complete(cfg: DialogueConfig) -> DialogueConfig:
    return start.resolved(cfg, cfg.layout.new_ids)


DIALOGUE = Experiment(
    "dialogue",
    PRESETS,
    "infinity-lasting",
    dialogue,
    check,
    report,
    lambda cfg: (1, 0),  # a conversation's segments are known only when it has been read
    _complete,
)
