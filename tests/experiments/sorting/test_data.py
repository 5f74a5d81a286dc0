"""The sorting task against hand-written tables and slow oracles."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sorting import data as sorting
from inf_former_jax.data.text import SPLITS

ALL = list(range(20))
GOLDEN = [[12, 17, 4, 11, 9, 1, 3, 9, 18, 17, 11, 19], [1, 7, 11, 12, 3, 11, 18, 2, 12, 6, 1, 1]]


def slow_answer(tokens: list[int]) -> list[int]:
    """`Counter.most_common` keeps the order of first appearance among equal counts."""
    ranked = [token for token, _ in Counter(tokens).most_common()]
    return ranked + [token for token in ALL if token not in ranked]


def slow_baseline(tokens: list[int], answers: list[int], window: int) -> float:
    ranked, hits = slow_answer(tokens[-window:]), 0
    for k, right in enumerate(answers):
        hits += next(token for token in ranked if token not in answers[:k]) == right
    return hits / 20


@pytest.mark.parametrize(
    "tokens, start",
    [
        ([7], [7, 0, 1]),
        ([3, 3, 1], [3, 1, 0, 2]),
        ([5, 2, 2, 5, 9], [5, 2, 9, 0, 1, 3]),
        ([19, 0, 0, 0, 19, 4], [0, 19, 4, 1, 2, 3]),
        (ALL[::-1], ALL[::-1]),
    ],
    ids=["one token", "by count", "tie by first appearance", "absent last", "all tie"],
)
def test_answer_by_hand(tokens, start):
    got = sorting.answer(np.array([tokens]))[0].tolist()
    assert got[: len(start)] == start
    assert sorted(got) == ALL


@given(st.lists(st.lists(st.integers(0, 19), min_size=12, max_size=12), min_size=1, max_size=4))
def test_answer_equals_the_oracle(rows):
    assert sorting.answer(np.array(rows)).tolist() == [slow_answer(row) for row in rows]


def test_answer_of_many_rows_equals_the_oracle():
    tokens, answers = sorting.generate(3, "train", range(150), 61)
    assert answers.tolist() == [slow_answer(row) for row in tokens.tolist()]


def test_answer_refuses_the_separator():
    with pytest.raises(ValueError, match=r"^tokens\[0, 1\]: found 20, accepted: .*0\.\.19$"):
        sorting.answer(np.array([[1, 20]]))


def test_an_example_depends_on_its_own_index_only():
    tokens, answers = sorting.generate(1, "valid", [4, 0, 9], 50)
    for row, index in enumerate([4, 0, 9]):
        alone, order = sorting.generate(1, "valid", np.array([index]), 50)
        np.testing.assert_array_equal(tokens[row], alone[0])
        np.testing.assert_array_equal(answers[row], order[0])
    assert tokens.dtype == answers.dtype == np.int8
    assert tokens.shape == (3, 50) and answers.shape == (3, 20)


def test_seeds_splits_and_indices_are_different_streams():
    places = [(seed, split) for seed in (0, 1, 2**32, 2**32 + 1) for split in SPLITS]
    rows = [sorting.generate(*place, range(3), 60)[0] for place in places]
    assert len({row.tobytes() for row in np.concatenate(rows)}) == 3 * len(places)


def test_an_example_is_the_same_on_every_machine():
    tokens, _ = sorting.generate(0, "train", [0, 8000], 12)
    assert tokens.tolist() == GOLDEN


def test_tokens_are_drawn_from_the_drifting_mixture():
    # One sequence has one p_0 and p_1: long enough that both ends are seen apart.
    length = 200_000
    tokens = sorting.generate(5, "test", [2], length)[0][0]
    stream = np.random.SeedSequence(5, spawn_key=(2, 2))
    shares = np.random.Generator(np.random.PCG64(stream)).integers(1, 10, size=(2, 20))
    p0, p1 = shares / shares.sum(axis=1, keepdims=True)
    for part in range(8):
        r = (part + 0.5) / 8
        piece = tokens[part * length // 8 : (part + 1) * length // 8]
        frequency = np.bincount(piece, minlength=20) / len(piece)
        # Five standard deviations of a share of .1 in 25,000 draws.
        np.testing.assert_allclose(frequency, (1 - r) * p0 + r * p1, atol=0.0095)
    assert abs(p0 - p1).max() > 0.03


def test_shares_are_the_integers_1_to_9():
    # The last token is drawn from p_1 alone, the mean over sequences of p_1 is flat.
    last = sorting.generate(0, "train", range(4000), 2)[0][:, -1]
    assert abs(np.bincount(last, minlength=20) / 4000 - 0.05).max() < 0.015
    # E[w_i²] / E[w]² = (95/3) / 25: how often two draws of one sequence agree.
    tokens = sorting.generate(1, "train", range(400), 3000)[0]
    tail = tokens[:, -300:]
    agree = (tail[:, :150] == tail[:, 150:]).mean()
    assert agree == pytest.approx(95 / 3 / 25 / 20, abs=0.003)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"split": "dev"}, r"^split: found 'dev', accepted: train, valid, test$"),
        ({"seed": -1}, r"^seed: found -1, accepted: 0 or more$"),
        ({"indices": [2, -3]}, r"^index: found -3, accepted: 0 or more$"),
        ({"length": 0}, r"^length: found 0, accepted: 1 or more$"),
    ],
)
def test_generate_refuses_bad_input(change, message):
    options = {"seed": 0, "split": "train", "indices": [0], "length": 5} | change
    with pytest.raises(ValueError, match=message):
        sorting.generate(**options)


def test_batch_by_hand():
    tokens = np.array([[3, 3, 1]])
    answers = sorting.answer(tokens)
    order = answers[0].tolist()
    got = sorting.batch(tokens, answers, segment_len=24)
    inputs = [3, 3, 1, 20, *order[:-1]]
    assert got.tokens.tolist() == [[[*inputs, 0]]]
    assert got.targets.tolist() == [[[21, 21, 21, *order, 21]]]
    assert got.weights.tolist() == [[[0] * 3 + [1] * 20 + [0]]]
    assert got.resets.tolist() == [[True]]
    assert got.valid is not None and got.valid.tolist() == [[[True] * 23 + [False]]]


@pytest.mark.parametrize("length", [1, 12, 32, 44, 64, 108])
def test_batch_answers_inside_the_last_segment(length):
    tokens, answers = sorting.generate(0, "train", range(3), length)
    got = sorting.batch(tokens, answers, segment_len=32)
    assert not got.weights[:, :-1].any()
    np.testing.assert_array_equal(got.targets[got.weights == 1].reshape(3, 20), answers)
    assert (got.targets[got.weights == 0] == sorting.PAD).all()
    # Teacher forcing: the input after an answer is that answer.
    row, place = got.tokens[0].ravel(), got.targets[0].ravel()
    assert row[length] == sorting.SEPARATOR
    np.testing.assert_array_equal(row[length + 1 : length + 20], place[length : length + 19])


@pytest.mark.parametrize("length, nearest", [(13, 12), (22, 12), (23, 32), (31, 32), (63, 64)])
def test_batch_refuses_an_answer_across_segments(length, nearest):
    tokens, answers = sorting.generate(0, "train", [0], length)
    found = f"found {length}, .* of segment_len 32; the nearest accepted is {nearest}"
    with pytest.raises(ValueError, match=rf"^length: {found}$"):
        sorting.batch(tokens, answers, segment_len=32)
    sorting.batch(*sorting.generate(0, "train", [0], nearest), segment_len=32)


def test_batch_refuses_a_segment_shorter_than_the_answer():
    tokens, answers = sorting.generate(0, "train", [0], 40)
    with pytest.raises(ValueError, match=r"^segment_len: found 19, accepted: 20 or more$"):
        sorting.batch(tokens, answers, segment_len=19)
    with pytest.raises(ValueError, match=r"^length: .*nearest accepted is 20$"):
        sorting.batch(tokens[:, :3], answers, segment_len=20)


def test_batch_refuses_other_ids():
    tokens, answers = sorting.generate(0, "train", [0], 5)
    answers[0, 4] = 20
    with pytest.raises(ValueError, match=r"^answers\[0, 4\]: found 20, accepted: .*0\.\.19$"):
        sorting.batch(tokens, answers, segment_len=64)


def test_text_round_trip(tmp_path):
    given = sorting.generate(0, "test", range(5), 37)
    sorting.write(tmp_path / "test.txt", *given)
    for got, expected in zip(sorting.read(tmp_path / "test.txt", 37), given, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int8


def test_text_by_hand(tmp_path):
    tokens = np.array([[3, 3, 1]])
    sorting.write(tmp_path / "one", tokens, sorting.answer(tokens))
    text = "3 3 1 20 3 1 0 2 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19\n"
    assert (tmp_path / "one").read_text() == text


ANSWER = " ".join(map(str, ALL))


@pytest.mark.parametrize(
    "line, message",
    [
        (f"1 2 {ANSWER}", r"found 0 separators, accepted: one separator \(20\)$"),
        ("", r"found 0 separators, accepted: one separator \(20\)$"),
        (f"1 20 2 20 {ANSWER}", r"found 2 separators, accepted: one separator \(20\)$"),
        (f"1 2 20 {ANSWER[:-3]}", r"found 19 tokens .*, 19 of them different, accepted: each"),
        (f"1 2 20 {ANSWER} 3", r"found 21 tokens .*, 20 of them different, accepted: each"),
        (f"1 2 20 {ANSWER[:-2]}18", r"found 20 tokens .*, 19 of them different, accepted: each"),
        (f"1 2 3 20 {ANSWER}", r"found 3 tokens, accepted: 2 tokens$"),
        (f"1 21 20 {ANSWER}", r"found '21', accepted: token ids 0\.\.20$"),
        (f"-1 2 20 {ANSWER}", r"found '-1', accepted: token ids 0\.\.20$"),
        (f"1 2.0 20 {ANSWER}", r"found '2\.0', accepted: token ids 0\.\.20$"),
        (f"1 é 20 {ANSWER}", r"byte \d+: found 0xe9, accepted: UTF-8$"),
    ],
)
def test_read_names_the_line(tmp_path, line, message):
    path = tmp_path / "data.txt"
    path.write_text(f"4 4 20 {ANSWER}\n{line}\n5 6 20 {ANSWER}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=rf"^{path}:2: {message}"):
        sorting.read(path)


def test_read_holds_the_first_line_to_the_given_length(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(f"4 4 20 {ANSWER}\n")
    with pytest.raises(ValueError, match=rf"^{path}:1: found 2 tokens, accepted: 3 tokens$"):
        sorting.read(path, length=3)
    path.write_text(f"20 {ANSWER}\n")
    with pytest.raises(ValueError, match=rf"^{path}:1: found 0 tokens, accepted: some tokens$"):
        sorting.read(path)
    path.write_text("")
    with pytest.raises(ValueError, match=rf"^{path}: found an empty file, accepted: "):
        sorting.read(path)


@pytest.mark.parametrize("window", [1, 7, 40, 99])
def test_baseline_equals_the_oracle(window):
    tokens, answers = sorting.generate(2, "valid", range(9), 100)
    pairs = zip(tokens.tolist(), answers.tolist(), strict=True)
    expected = np.mean([slow_baseline(t, a, window) for t, a in pairs])
    assert sorting.baseline_accuracy(tokens, answers, window) == pytest.approx(expected, abs=1e-12)
    assert expected < 1


@pytest.mark.parametrize("window", [100, 101, 5000])
def test_baseline_that_sees_everything_is_perfect(window):
    tokens, answers = sorting.generate(2, "valid", range(70), 100)
    assert sorting.baseline_accuracy(tokens, answers, window) == 1.0


def test_elimination_is_the_baseline_of_no_window():
    tokens, answers = sorting.generate(0, "valid", range(2), 30)
    harmonic = sum(1 / k for k in range(1, 21)) / 20
    assert sorting.elimination_accuracy() == pytest.approx(harmonic, abs=1e-15)
    assert sorting.baseline_accuracy(tokens, answers, 0) == sorting.elimination_accuracy()
    with pytest.raises(ValueError, match=r"^window: found -1, accepted: 0 or more$"):
        sorting.baseline_accuracy(tokens, answers, -1)


def test_elimination_is_what_uniform_guesses_attain():
    random, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        right = random.permutation(20).tolist()
        hits += sum(random.choice(right[k:]) == right[k] for k in range(20))
    assert hits / 40_000 == pytest.approx(sorting.elimination_accuracy(), abs=0.008)


@pytest.mark.parametrize(
    "options, visible",
    [
        ((4000, 1024, 0, 3), 928),
        ((4000, 1024, 1024, 4), 4000),
        ((8000, 1024, 1024, 3), 3904),
        ((8000, 1024, 2048, 3), 6976),
        ((1024, 1024, 0, 3), 0),
    ],
    ids=["own segment", "at most all", "short-term memory", "Transformer-XL", "separator first"],
)
def test_visible_tokens_by_hand(options, visible):
    assert sorting.visible_tokens(*options) == visible


def test_visible_tokens_refuses_bad_input():
    with pytest.raises(ValueError, match=r"^mem_len: found -1, accepted: 0 or more$"):
        sorting.visible_tokens(4000, 1024, -1, 3)
    with pytest.raises(ValueError, match=r"^layers: found -2, accepted: 0 or more$"):
        sorting.visible_tokens(4000, 1024, 0, -2)
    with pytest.raises(ValueError, match=r"^length: .*nearest accepted is 1004$"):
        sorting.visible_tokens(1010, 1024, 0, 3)
