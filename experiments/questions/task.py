"""One run of the questions experiment: answers right by the age of the fact, the report."""

import bisect
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.dialogue import corpus as dialogue_corpus
from experiments.dialogue import replies as dialogue_replies
from experiments.dialogue.corpus import Corpus
from experiments.dialogue.stream import Encoded, Layout
from experiments.dialogue.task import Dialogue
from experiments.language_modeling import start as language_modeling_init
from experiments.questions import data as task
from experiments.questions.config import QuestionsConfig
from experiments.run import training
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training.state import TrainState
from inf_former_jax.training.step import Objective


def run(cfg: QuestionsConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    made = documents(cfg)
    language_modeling_init.keep_tokenizer(made.corpus.encoder.tokenizer, folder)
    return training.run(
        cfg, folder, provenance, lambda mesh, ops: Probe(cfg, made, mesh, ops, folder)
    )


class Documents(NamedTuple):
    """The conversations of a run; answers are all that is scored."""

    corpus: Corpus
    test_ages: list[list[int]]  # by test document and question, see `ages`


@functools.lru_cache(maxsize=1)  # made by the check at the door, then by the run
def documents(cfg: QuestionsConfig) -> Documents:
    """The documents that a config asks for, in tokens.

    Raises:
        ValueError: as `dialogue_corpus.tokenizer_of` and `dialogue_corpus.encoded` do.
    """
    made = {
        split: task.generate(cfg.seed, split, range(getattr(cfg, f"{split}_documents")), cfg.task)
        for split in task.SPLITS
    }
    read = {split: [one.conversation for one in some] for split, some in made.items()}
    size, length = cfg.model.vocab_size, cfg.model.segment_len
    tokenizer = dialogue_corpus.tokenizer_of(cfg.tokenizer, read["train"], size - 3, cfg.cache)
    layout = Layout(scored="readers")
    corpus = dialogue_corpus.encoded("questions", read, tokenizer, size, layout, length)
    pairs = zip(made["test"], corpus.test.encoded, strict=True)
    return Documents(corpus, [ages(one, ids, tokenizer, length) for one, ids in pairs])


def token_of(tokenizer: Tokenizer, text: str, offset: int) -> int:
    """The number of the token of the text that holds its character `offset`.

    It is the last of the shortest beginning whose text is longer than `offset`: a token may hold
    the blank before a sentence and its first word.
    """
    ids = tokenizer.encode(text)
    counts = range(1, len(ids) + 1)
    return bisect.bisect_right(counts, offset, key=lambda n: len(tokenizer.decode(ids[:n])))


def ages(
    one: task.Questions, encoded: Encoded, tokenizer: Tokenizer, segment_len: int
) -> list[int]:
    """Segments from that in which a fact's sentence begins to that of the <speaker> who answers.

    The token of <speaker> is the one that predicts the first of the answer.
    """
    (text,) = one.conversation.sections
    first = encoded.documents[0][0] + 1  # behind <doc>
    answers = encoded.turns[1::2]
    return [
        answer.start // segment_len - (first + token_of(tokenizer, text, fact)) // segment_len
        for fact, answer in zip(one.facts, answers, strict=True)
    ]


class Greedy(NamedTuple):
    """How `dialogue_replies` says the answers: to every question, the likeliest tokens."""

    reply_tokens: int
    objective: Objective
    replies: int = 0
    temperature: float = 0.0
    top_p: float = 1.0


class Probe:
    """The task as a run asks for it (`training.Task`): a dialogue whose answers are compared.

    Args:
        ops: the model's operators on the devices of the mesh.
        folder: of the run.
    """

    best, higher_is_better = Dialogue.best, Dialogue.higher_is_better

    def __init__(self, cfg: QuestionsConfig, made: Documents, mesh: Mesh, ops: Any, folder: Path):
        self._cfg, self._made = cfg, made
        self._dialogue = Dialogue(cfg, made.corpus, mesh, ops, folder)
        self.row, self.tokens_per_step = self._dialogue.row, self._dialogue.tokens_per_step

    def batches(self, begin: int) -> Iterator[Batch]:
        """The training conversations, epoch after epoch."""
        return self._dialogue.batches(begin)

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy and perplexity of the answers' tokens, on the validation documents."""
        return self._dialogue.evaluate(now)

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the memory emptied; baselines."""
        cfg = self._cfg
        return {
            "test": {
                label: self.figures(final, empty) for label, empty in training.controls(cfg).items()
            },
            "baselines": {
                "chance": task.chance(cfg.task),
                "a value of the document, none bound to its name": task.unbound_accuracy(cfg.task),
            },
            "baselines_by_age": {},
        }

    def figures(self, now: TrainState, empty_memory: bool) -> dict[str, Any]:
        """Of the test documents: how well answers are predicted, and how many are given.

        Args:
            empty_memory: clear the memory before every segment (the control).

        Returns:
            Those of `Dialogue.figures`, of which the accuracy is named token_accuracy; of `by_age`.
        """
        row = self._dialogue.figures(now, "test", empty_memory)
        return {"token_accuracy": row.pop("accuracy")} | row | self._answers(now, empty_memory)

    def _answers(self, now, empty_memory):
        cfg, (corpus, test_ages) = self._cfg, self._made
        of = corpus.test
        longest = max(
            turn.end - turn.start - 1 for encoded in of.encoded for turn in encoded.turns[1::2]
        )
        # A few rows at a time: no mesh.
        params, ops = jax.device_get(now.params), jax.device_put(operators(cfg.model))
        said = dialogue_replies.replies(
            Greedy(longest, Objective(empty_memory=empty_memory)), Decoder(cfg.model), params, ops,
            corpus, of, cfg.seed,
        )  # fmt: skip
        right = [one.reply == one.true for one in said]
        return by_age(right, [test_ages[one.conversation][one.turn.turn // 2] for one in said])


def by_age(right: Sequence[bool], ages: Sequence[int]) -> dict[str, Any]:
    """accuracy, the share that is right; and of each age.

    Returns:
        accuracy; ages 0, 1, …, accuracy_by_age and questions_by_age, lists of equal length; the
        accuracy of an age that is not asked is None.
    """
    asked = np.bincount(ages)
    hits = np.bincount(ages, weights=right)
    return {
        "accuracy": float(np.mean(right)),
        "ages": list(range(len(asked))),
        "accuracy_by_age": [float(r / n) if n else None for r, n in zip(hits, asked, strict=True)],
        "questions_by_age": asked.tolist(),
    }


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    from rich.console import Console
    from rich.table import Table

    from experiments.run import plots

    ages = next(iter(result["test"].values()))["ages"]
    table = Table(title=f"questions, {name}, {result['steps']:,} updates", title_justify="left")
    table.add_column("answers right on the test documents, by age in segments")
    for column in ("perplexity", "all", *map(str, ages)):
        table.add_column(column, justify="right")
    for label, row in result["test"].items():
        cells = ["" if value is None else f"{value:.2f}" for value in row["accuracy_by_age"]]
        table.add_row(label, f"{row['perplexity']:.2f}", f"{row['accuracy']:.3f}", *cells)
    for label, value in result["baselines"].items():
        table.add_row(label, "", f"{value:.3f}")
    Console(width=max(100, 75 + 7 * len(ages))).print(table)
    plots.accuracy_by_age(folder / "accuracy.png", f"Questions about a document, {name}", result)
    print(f"{folder}/result.json, {folder}/accuracy.png")


def check(cfg: QuestionsConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    for name in ("train_documents", "valid_documents", "test_documents"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    training.check(cfg)
    documents(cfg)
