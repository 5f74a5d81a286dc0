"""What a document states and asks for: a key, or a fact about a person, beside others of its kind.

    The pass key is 7 3 1 4 2. Remember it.          What is the pass key? The pass key is 7 3 1 4 2
    The pass key of Marta Lindqvist is 7 3 … it.     What is the pass key of Marta Lindqvist? …
    Porto is where Marta Lindqvist was born.         Where was Marta Lindqvist born? …
                                                     … Marta Lindqvist was born in Porto

A key has a name if the document states several. A fact is one of `questions`, in one of its
wordings. The answer begins as a sentence does, so that a model of plain text can go on with it.
The others are about other people, and say other things of them. A reader who knows the
values but not the names guesses among them. Digits are tokenised one by one.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from experiments.questions.phrases import (
    FIRST,
    LAST,
    RELATIONS,
    full_names,
    one_of,
    several,
    worded,
)
from inf_former_jax.data.tokens import Tokenizer

Kind = Literal["key", "fact"]

STATEMENT = (" The pass key{of} is", ". Remember it.")
"""Before and after the digits where a key is stated."""
QUESTION = " What is the pass key{of}? The pass key{of} is"
"""Before the digits at the end of the document."""


class Digits(NamedTuple):
    """The ten digits in tokens. They differ in one of their P tokens."""

    ids: Int32[np.ndarray, "10 P"]
    telling: int  # the one that differs


class Needle(NamedTuple):
    """A statement in tokens, and what asks for it."""

    statement: Int32[np.ndarray, " statement"]
    question: Int32[np.ndarray, " question"]  # with the answer
    answer: Bool[np.ndarray, " question"]  # which tokens of it tell the answer


@functools.cache
def digits_of(tokenizer: Tokenizer) -> Digits:
    """The ten digits, each encoded by itself.

    Raises:
        ValueError: a tokeniser whose digits do not differ in exactly one token.
    """
    pieces = [tokenizer.encode(f" {digit}") for digit in range(10)]
    if len({len(piece) for piece in pieces}) == 1:
        digits = np.stack(pieces)
        different = [len(set(place)) for place in digits.T.tolist()]
        if sorted(different) == [1] * (len(different) - 1) + [10]:
            return Digits(digits, different.index(10))
    found = [piece.tolist() for piece in pieces]
    raise ValueError(f"tokenizer: found {found}, accepted: digits that differ in one token each")


def drawn(
    random: np.random.Generator, kind: Kind, digits: int, others: int, tokenizer: Tokenizer
) -> list[Needle]:
    """A needle that is asked for, and then `others` that are not.

    Raises:
        ValueError: as of `digits_of`.
    """
    if kind == "key":
        key = random.integers(10, size=digits)
        if not others:
            return [_key(tokenizer, key, "")]
        keys = [key, *random.integers(10, size=(others, digits))]
        return [
            _key(tokenizer, key, name)
            for key, name in zip(keys, full_names(random, others + 1), strict=True)
        ]
    names = full_names(random, others + 1)
    relation = RELATIONS[one_of(random, list(RELATIONS))]
    values = several(random, relation.values, others + 1)
    asked = f"{one_of(random, relation.questions)} {relation.answer}"
    return [
        _fact(tokenizer, one_of(random, relation.statements), asked, name, value)
        for name, value in zip(names, values, strict=True)
    ]


@functools.cache
def longest(kind: Kind, digits: int, others: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """Tokens of the longest statement, and of the longest question with its answer.

    It takes the name and the value that have the most tokens by themselves.
    """

    def most(words: Sequence[str]) -> str:
        return max(words, key=lambda word: len(tokenizer.encode(f" {word}")))

    name = f"{most(FIRST)} {most(LAST)}"
    if kind == "key":
        some = [_key(tokenizer, np.zeros(digits, int), name if others else "")]
    else:
        some = [
            _fact(
                tokenizer, statement, f"{question} {relation.answer}", name, most(relation.values)
            )
            for relation in RELATIONS.values()
            for statement in relation.statements
            for question in relation.questions
        ]
    return max(len(one.statement) for one in some), max(len(one.question) for one in some)


def most_others(kind: Kind) -> int:
    """How many others of its kind a document can state beside the needle that is asked for."""
    counts = [len(FIRST), len(LAST)]
    if kind == "fact":
        counts += [len(relation.values) for relation in RELATIONS.values()]
    return min(counts) - 1


def chance(kind: Kind) -> float:
    """Expected accuracy of a uniform guess: of a digit, or among all values of a relation."""
    if kind == "key":
        return 1 / 10
    return sum(1 / len(relation.values) for relation in RELATIONS.values()) / len(RELATIONS)


def _key(tokenizer: Tokenizer, key: Int[np.ndarray, " digits"], name: str) -> Needle:
    of = f" of {name}" if name else ""
    texts = (text.format(of=of) for text in (*STATEMENT, QUESTION))
    before, after, question = map(tokenizer.encode, texts)
    digits = digits_of(tokenizer)
    ids = digits.ids[key].ravel()
    answer = np.zeros(len(question) + len(ids), bool)
    answer[len(question) + digits.telling :: digits.ids.shape[1]] = True
    return Needle(np.concatenate([before, ids, after]), np.concatenate([question, ids]), answer)


def _fact(tokenizer: Tokenizer, statement: str, question: str, name: str, value: str) -> Needle:
    texts = worded(statement, name, value), worded(question, name, value), value
    stated, asked, ids = (tokenizer.encode(f" {text}") for text in texts)
    answer = np.append(np.zeros(len(asked), bool), np.ones(len(ids), bool))
    return Needle(stated, np.concatenate([asked, ids]), answer)
