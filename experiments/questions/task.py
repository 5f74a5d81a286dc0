"""One run of the questions experiment: answers right by the age of the fact, the report."""

import bisect
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.dialogue import corpus as conversations
from experiments.dialogue.corpus import Corpus, swapped
from experiments.dialogue.records import Conversation
from experiments.dialogue.replies import Answering, replies
from experiments.dialogue.stream import NUM_CONTROLS, Encoded, Layout
from experiments.dialogue.task import ConversationTask
from experiments.language_modeling import start
from experiments.language_modeling.sample import writer
from experiments.questions.config import PRESETS, QuestionsConfig
from experiments.questions.data import (
    Questions,
    chance,
    eliminating_accuracy,
    generate,
    unbound_accuracy,
)
from experiments.run import controls, plots, tables, training
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site
from inf_former_jax.data.text import SPLITS
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.generate import Sampling
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.training.state import TrainState


def check(cfg: QuestionsConfig) -> None:
    """Refuse what would fail only after minutes, or silently.

    Raises:
        ValueError: an option out of range, or options that do not fit each other.
    """
    training.check(cfg)
    documents(cfg)


def size(cfg: QuestionsConfig) -> tuple[int, int]:
    """Segments of a document, and bytes of all documents, with 8 tokens a sentence at least."""
    tokens = 8 * cfg.task.sentences
    count = cfg.train_documents + cfg.valid_documents + cfg.test_documents
    return max(1, tokens // cfg.model.segment_len), 8 * count * tokens


class Documents(NamedTuple):
    """The conversations of a run. Training scores what `taught` says, all else scores answers."""

    corpus: Corpus
    test_ages: list[list[int]]  # by test document and question, see `ages`


@functools.lru_cache(maxsize=1)  # `check` makes them before `run` does
def documents(cfg: QuestionsConfig) -> Documents:
    """The documents that a config asks for, in tokens."""
    counts = {split: getattr(cfg, f"{split}_documents") for split in SPLITS}
    generated = {
        split: generate(cfg.seed, split, range(count), cfg.task) for split, count in counts.items()
    }
    read = {split: [one.conversation for one in some] for split, some in generated.items()}
    size, length = cfg.model.vocab_size - NUM_CONTROLS, cfg.model.segment_len
    tokenizer = conversations.tokenizer_of(cfg.tokenizer, read["train"], size, cfg.cache)
    none: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    scored = "readers" if cfg.taught == "answers" else "both"
    taught = _encoded(none | {"train": read["train"]}, scored, tokenizer, cfg)
    corpus = _encoded(read | {"train": []}, "readers", tokenizer, cfg)
    corpus = corpus._replace(train=taught.train, dropped=corpus.dropped + taught.dropped)
    pairs = zip(generated["test"], corpus.test.encoded, strict=True)
    return Documents(corpus, [ages(one, ids, tokenizer, length) for one, ids in pairs])


def _encoded(
    read: dict[str, list[Conversation]],
    scored: Literal["both", "readers"],
    tokenizer: Tokenizer,
    cfg: QuestionsConfig,
) -> Corpus:
    return conversations.encoded("questions", read, tokenizer, Layout(scored=scored), cfg.model)


def token_of(tokenizer: Tokenizer, text: str, offset: int) -> int:
    """The number of the token that holds the character `offset` of a text.

    It is the last token of the shortest beginning whose text is longer than `offset`. (One token
    may hold the space before a sentence and the sentence's first word.)
    """
    ids = tokenizer.encode(text)
    counts = range(1, len(ids) + 1)
    return bisect.bisect_right(counts, offset, key=lambda n: len(tokenizer.decode(ids[:n])))


def ages(one: Questions, encoded: Encoded, tokenizer: Tokenizer, segment_len: int) -> list[int]:
    """For each question, the segments from its fact to its answer.

    They are counted from the segment in which the fact's sentence begins to the segment of the
    answer's <speaker>, the token that predicts the first one of the answer.
    """
    (text,) = one.conversation.sections
    first = encoded.documents[0][0] + 1  # behind <doc>
    answers = encoded.turns[1::2]
    return [
        answer.start // segment_len - (first + token_of(tokenizer, text, fact)) // segment_len
        for fact, answer in zip(one.facts, answers, strict=True)
    ]


class Probe(ConversationTask):
    """The questions task: conversations whose answers are compared with the true words."""

    def __init__(self, cfg: QuestionsConfig, read: Documents, site: Site):
        super().__init__(cfg, read.corpus, site)
        self._questions, self._ages = cfg, read.test_ages

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the controls; baselines."""
        cfg = self._questions
        # Of a single test document there is no other text.
        has: list[Control] = ["emptied", *(["foreign"] if "swapped" in self._batches else [])]
        return {
            "test": controls.each(cfg, functools.partial(self.tested, state), has),
            "baselines": {
                "chance": chance(cfg.task),
                "a value of the document, none bound to its name": unbound_accuracy(cfg.task),
                "one that was not given before": eliminating_accuracy(cfg.task),
            },
            "baselines_by_age": {},
        }

    def tested(self, state: TrainState, control: Control) -> dict[str, Any]:
        """How well answers are predicted, and how many are right, on the test documents.

        A foreign memory is that of another text: the conversation comes behind it.

        Returns:
            Those of `figures`, with its accuracy as token_accuracy, and those of `by_age`.
        """
        split = "swapped" if control == "foreign" else "test"
        row = self.figures(state, split, "none" if control == "foreign" else control)
        accuracy = {"token_accuracy": row.pop("accuracy")}
        return accuracy | row | self.answered(state.params, control)

    def answered(self, params: Any, control: Control) -> dict[str, Any]:
        """`by_age` of greedy answers to all questions of the test documents, and `by_number`."""
        model, test = self._questions.model, self._corpus.test
        if control == "foreign":
            test = swapped(test, self._corpus.encoder)
        spans = [turn for encoded in test.encoded for turn in encoded.turns[1::2]]
        longest = max(turn.end - turn.start - 1 for turn in spans)
        greedy = Sampling(temperature=0.0)
        seed = self._questions.seed
        how = Answering(0, longest, greedy, control == "emptied", seed)
        tokenizer = self._corpus.encoder.tokenizer
        given = replies(writer(Decoder(model), params, tokenizer), self._corpus, test, how)
        right = [one.reply == one.true for one in given]
        numbers = [one.turn.turn // 2 for one in given]
        ages = [self._ages[one.conversation][n] for one, n in zip(given, numbers, strict=True)]
        return by_age(right, ages) | {"accuracy_by_question": by_number(right, numbers)}


def questions(cfg: QuestionsConfig, site: Site) -> Probe:
    """The task of a run, whose folder keeps the tokeniser."""
    read = documents(cfg)
    start.keep_tokenizer(read.corpus.encoder.tokenizer, site.folder)
    return Probe(cfg, read, site)


def by_age(right: Sequence[bool], ages: Sequence[int]) -> dict[str, Any]:
    """The share of answers that are right: of all, and of those of each age.

    Returns:
        accuracy; ages 0, 1, …, accuracy_by_age and questions_by_age, lists of equal length. An age
        without questions has the accuracy None.
    """
    asked = np.bincount(ages)
    hits = np.bincount(ages, weights=right)
    return {
        "accuracy": float(np.mean(right)),
        "ages": list(range(len(asked))),
        "accuracy_by_age": [float(r / n) if n else None for r, n in zip(hits, asked, strict=True)],
        "questions_by_age": asked.tolist(),
    }


def by_number(right: Sequence[bool], numbers: Sequence[int]) -> list[float]:
    """The share of answers that are right to the first question of a conversation, the second, …

    Later ones can follow from earlier ones by elimination: the first says whether names are bound.
    """
    asked, hits = np.bincount(numbers), np.bincount(numbers, weights=right)
    return (hits / asked).tolist()


def report(name: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    ages = next(iter(result["test"].values()))["ages"]
    first = "answers right on the test documents, by age in segments"
    rows = []
    for label, row in result["test"].items():
        cells = ["" if value is None else f"{value:.2f}" for value in row["accuracy_by_age"]]
        rows.append([label, f"{row['perplexity']:.2f}", f"{row['accuracy']:.3f}", *cells])
    for label, value in result["baselines"].items():
        rows.append([label, "", f"{value:.3f}", *[""] * len(ages)])
    title = f"questions, {name}, {result['steps']:,} updates"
    header = (first, "perplexity", "all", *map(str, ages))
    tables.show(title, header, rows, width=max(100, 75 + 7 * len(ages)))
    test = result["test"]
    trained = {label: (row["accuracy"], row["accuracy_by_age"]) for label, row in test.items()}
    baselines = {label: (value, ()) for label, value in result["baselines"].items()}
    plots.accuracy_by_place(folder / "accuracy.png", title, ages, trained, baselines)
    print(f"{folder}/result.json, {folder}/accuracy.png")


QUESTIONS = Experiment("questions", PRESETS, "infinity-lasting", questions, check, report, size)
