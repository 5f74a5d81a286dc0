"""The sorting task of the ∞-former (ACL 2022, §4.1; SPEC §5).

A sequence of n tokens drifts from one token distribution to another; the model then lists the 20
tokens by decreasing count, so it must remember the whole sequence at even strength.

Dimension letters: B rows, n tokens of a sequence, W segments of T tokens.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int8, Integer

from experiments.run.examples import generators
from experiments.sorting.config import SortingConfig
from inf_former_jax.data.batches import Batch, check_tokens, segment
from inf_former_jax.files import decode, read_raw_lines, writing
from inf_former_jax.require import require, require_at_least

VOCAB = 20
"""Tokens that are sorted: ids 0..19."""
SEPARATOR = 20
"""Id that ends the sequence and asks for the answer."""
PAD = 21
"""Target id of positions that carry no loss."""
NUM_TOKENS = 22
"""Size of the model's vocabulary."""

# Rows handled together by `answer`: above this the temporaries leave the cache (3x slower).
_CHUNK = 64
_IDS = {str(i): i for i in range(VOCAB + 1)}


def generate(
    seed: int, split: str, indices: Sequence[int] | Integer[np.ndarray, " B"], length: int
) -> tuple[Int8[np.ndarray, "B n"], Int8[np.ndarray, "B 20"]]:
    """Make the examples `indices` of a split: (tokens [B, n], answers [B, 20]), n = length.

    p_0 and p_1 are 20 integers each, uniform on 1..9, normalised; token j = 0..n-1 is drawn from
    (1 - r) p_0 + r p_1 with r = (j + 1) / n (SPEC §5). An example depends on (seed, split, index,
    length) only, so that any host makes any example.

    Raises:
        ValueError: an unknown split, a negative seed or index, or length < 1.
    """
    require_at_least("length", length, 1)
    drift = np.arange(1, length + 1) / length
    tokens = np.empty((len(indices), length), np.int8)
    for row, random in enumerate(generators(seed, split, indices)):
        tokens[row] = _sequence(random, drift)
    return tokens, answer(tokens)


def _sequence(
    random: np.random.Generator, drift: Float[np.ndarray, " n"]
) -> Int8[np.ndarray, " n"]:
    shares = random.integers(1, 10, size=(2, VOCAB))
    # One entry a share: a uniform place in half 0 or half 1 of the table is a draw from p_0 or p_1.
    table = np.repeat(np.tile(np.arange(VOCAB, dtype=np.int8), 2), shares.ravel())
    early, late = shares.sum(axis=1)
    drifted = random.random(len(drift)) < drift
    slots = (random.random(len(drift)) * np.where(drifted, late, early)).astype(np.intp)
    return table[slots + np.where(drifted, early, 0)]


def answer(tokens: Integer[np.ndarray, "B n"]) -> Int8[np.ndarray, "B 20"]:
    """Sort the vocabulary by decreasing count, ties by first appearance (SPEC §5).

    Absent tokens come last in increasing order.

    Raises:
        ValueError: ids outside 0..19.
    """
    check_tokens(tokens, VOCAB, "tokens")
    order = np.empty((len(tokens), VOCAB), np.int8)
    for start in range(0, len(tokens), _CHUNK):
        order[start : start + _CHUNK] = _order(tokens[start : start + _CHUNK])
    return order


def _order(tokens: Integer[np.ndarray, "B n"]) -> Integer[np.ndarray, "B 20"]:
    rows, length = tokens.shape
    keys = (tokens + VOCAB * np.arange(rows)[:, None]).ravel()
    counts = np.bincount(keys, minlength=VOCAB * rows)
    first = np.full(VOCAB * rows, length)
    np.minimum.at(first, keys, np.tile(np.arange(length), rows))
    # A count weighs n, and a present token first appears before n: so the count decides, and the
    # first appearance breaks ties.
    ranks = (first - length * counts).reshape(rows, VOCAB)
    return np.argsort(ranks, axis=1, kind="stable")


def batch(
    tokens: Integer[np.ndarray, "B n"], answers: Integer[np.ndarray, "B 20"], segment_len: int
) -> Batch:
    """Teacher-forced model input [tokens, separator, answers[:-1]], n + 20 ids, in segments.

    Targets at the inputs n..n+19 are the answers with weight 1; elsewhere PAD with weight 0
    (SPEC §5).

    Raises:
        ValueError: those 20 positions do not lie inside one segment, rows that differ in number,
            or ids outside 0..19.
    """
    rows, length = tokens.shape
    _check_fits(length, segment_len)
    check_tokens(tokens, VOCAB, "tokens")
    _check_answers(tokens, answers)
    separator = np.full((rows, 1), SEPARATOR)
    inputs = np.concatenate([tokens, separator, answers[:, :-1]], axis=1)
    targets = np.full(inputs.shape, PAD)
    targets[:, length:] = answers
    weights = (targets != PAD).astype(np.float32)
    return segment(inputs, targets, weights, segment_len, pad_target=PAD)


def _check_answers(tokens: np.ndarray, answers: np.ndarray) -> None:
    accepted = (len(tokens), VOCAB)
    require(answers.shape == accepted, "answers", f"shape {answers.shape}", accepted)
    check_tokens(answers, VOCAB, "answers")


def _check_fits(length: int, segment_len: int) -> None:
    """Refuse a length whose answers do not lie in one segment; the nearest possible is named."""
    require_at_least("length", length, 1)
    require_at_least("segment_len", segment_len, VOCAB)
    start = length - length % segment_len
    above, last = start + segment_len, start + segment_len - VOCAB
    nearest = last if last > 0 and length - last <= above - length else above
    accepted = f"{VOCAB} answers inside one segment of segment_len {segment_len}"
    require(length <= last, "length", length, f"{accepted}; the nearest accepted is {nearest}")


def read(
    path: str | Path, length: int | None = None
) -> tuple[Int8[np.ndarray, "B n"], Int8[np.ndarray, "B 20"]]:
    """Read the published text format, `t t … t 20 a a … a` a line: (tokens, answers).

    Raises:
        ValueError: naming file:line, for anything but ids 0..20, one separator, a sequence as long
            as the first (or as `length`), and a permutation of 0..19 as answer.
    """
    lines = []
    for number, offset, raw in read_raw_lines(path):
        where = f"{path}:{number}"
        lines.append(_parse(decode(raw, where, offset), length, where))
        length = len(lines[0]) - VOCAB - 1
    require(bool(lines), str(path), "an empty file", "a sequence a line")
    tokens, answers = np.split(np.stack(lines), [-VOCAB], axis=1)
    return tokens[:, :-1], answers


def _parse(line: str, length: int | None, where: str) -> Int8[np.ndarray, " m"]:
    words = line.split()
    for word in sorted(set(words)):
        require(word in _IDS, where, repr(word), f"token ids 0..{SEPARATOR}")
    ids = np.array([_IDS[word] for word in words], np.int8)
    places = np.flatnonzero(ids == SEPARATOR)
    require(len(places) == 1, where, f"{len(places)} separators", f"one separator ({SEPARATOR})")
    found = int(places[0])
    accepted = f"{length or 'some'} tokens"
    require(found == (length or max(found, 1)), where, f"{found} tokens", accepted)
    given = ids[found + 1 :]
    distinct = len(np.unique(given))
    answer = f"{len(given)} tokens after the separator, {distinct} of them different"
    require(len(given) == distinct == VOCAB, where, answer, f"each of 0..{VOCAB - 1} once")
    return ids


def write(
    path: str | Path, tokens: Integer[np.ndarray, "B n"], answers: Integer[np.ndarray, "B 20"]
) -> None:
    """Write the published text format that `read` reads; an existing file is replaced.

    Raises:
        ValueError: rows that differ in number, or ids outside 0..19.
    """
    check_tokens(tokens, VOCAB, "tokens")
    _check_answers(tokens, answers)
    with writing(path) as file:
        for row, order in zip(tokens.tolist(), answers.tolist(), strict=True):
            file.write(b"%s\n" % " ".join(map(str, [*row, SEPARATOR, *order])).encode())


def elimination_accuracy() -> float:
    """Expected accuracy of a uniform guess among the tokens not yet given, mean_k 1/(20 - k).

    Teacher forcing shows the model the k = 0..19 answers before each one: .18 without a sequence.
    """
    return float(np.mean(1 / np.arange(1, VOCAB + 1)))


def baseline_accuracy(
    tokens: Integer[np.ndarray, "B n"], answers: Integer[np.ndarray, "B 20"], window: int
) -> float:
    """Mean teacher-forced accuracy, in [0, 1], of exact counts over the last `window` tokens.

    At each answer it predicts the best-ranked token (ties by first appearance in the window,
    absent ones last) among those not yet given. Window 0 is `elimination_accuracy`; a window
    >= n gives 1. A model with that much reach should attain at least this.

    Raises:
        ValueError: a negative window, or arrays that `batch` refuses.
    """
    require_at_least("window", window, 0)
    _check_answers(tokens, answers)
    if window == 0:
        return elimination_accuracy()
    ranks = np.argsort(answer(tokens[:, -window:]), axis=1)
    rows, hits = np.arange(len(tokens)), 0
    for given in answers.T:
        hits += np.count_nonzero(ranks.argmin(axis=1) == given)
        ranks[rows, given] = VOCAB
    return hits / answers.size


def visible_tokens(length: int, segment_len: int, mem_len: int, layers: int) -> int:
    """Sequence tokens within reach of the answer through attention alone, at most `length`.

    The n mod T tokens of the answer's own segment before the separator, and mem_len more a layer
    (exact for a mem_len that segment_len divides).

    Raises:
        ValueError: a length that `batch` refuses, or a negative mem_len or layers.
    """
    _check_fits(length, segment_len)
    require_at_least("mem_len", mem_len, 0)
    require_at_least("layers", layers, 0)
    return min(length, length % segment_len + layers * mem_len)


def sequences(
    cfg: SortingConfig, split: str, numbers: Integer[np.ndarray, " B"]
) -> tuple[Int8[np.ndarray, "B n"], Int8[np.ndarray, "B 20"]]:
    """A run's (tokens, answers), generated or read from a file, round and round."""
    if split == "train" and cfg.train_sequences:
        numbers = numbers % cfg.train_sequences
    if not cfg.data:
        return generate(cfg.seed, split, numbers, cfg.length)
    tokens, answers = _file(cfg.data, split, cfg.length)
    return tokens[numbers % len(tokens)], answers[numbers % len(tokens)]


def count(cfg: SortingConfig, split: str, wanted: int) -> int:
    """How many of the wanted sequences a split has: at most a file's."""
    if not cfg.data:
        return wanted
    return min(wanted, len(_file(cfg.data, split, cfg.length)[0]))


def run_batch(cfg: SortingConfig, split: str, numbers: Integer[np.ndarray, " B"]) -> Batch:
    """A run's sequences as segments of its model."""
    return batch(*sequences(cfg, split, numbers), cfg.model.segment_len)


@functools.cache
def _file(folder: str, split: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    path, accepted = Path(folder) / f"{split}.txt", "a folder with train.txt, valid.txt, test.txt"
    require(path.is_file(), "data", f"no file {path}", accepted)
    return read(path, length)


def baselines(cfg: SortingConfig) -> dict[str, float]:
    """Accuracies that need no learning, on a run's test sequences (SPEC §5)."""
    model, numbers = cfg.model, np.arange(count(cfg, "test", cfg.test_sequences))
    tokens, answers = sequences(cfg, "test", numbers)

    def exact_counts(layers: int) -> float:
        window = visible_tokens(cfg.length, model.segment_len, model.mem_len, layers)
        return baseline_accuracy(tokens, answers, window)

    return {
        "elimination alone": elimination_accuracy(),
        "exact counts, short-term window": exact_counts(1),
        f"exact counts, {model.num_layers} layers × window": exact_counts(model.num_layers),
        "full counts": baseline_accuracy(tokens, answers, cfg.length),
    }
