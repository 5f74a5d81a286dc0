"""Rows that walk documents: one epoch by hand, and what must hold of every one."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_former_jax.data import splits
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.streams import Streams, pieces
from inf_former_jax.data.tokens import Bytes

END = 9


def split_of(lengths) -> TokenizedSplit:
    """Documents of so many tokens, the end (9) included; token j of document i is 100 i + j."""
    documents = [[100 * i + j for j in range(size - 1)] + [END] for i, size in enumerate(lengths)]
    return TokenizedSplit(
        tokens=np.concatenate(documents).astype(np.uint16),
        starts=np.cumsum([0, *lengths]),
        names=tuple(f"document {i}" for i in range(len(lengths))),
        words=np.full(len(lengths), 3),
        bytes=np.full(len(lengths), 10),
    )


def epoch_of(streams, epoch=0, rows=None):
    """Segments of an epoch in reading order: Batch fields [R, steps · W, …], Places the same."""
    rows = range(streams.batch_size) if rows is None else rows
    size = streams.steps_per_epoch
    steps = range(epoch * size, (epoch + 1) * size)
    batches = [(*streams.batch(step, rows)[:5], *streams.places(step, rows)) for step in steps]
    return [np.concatenate(field, axis=1) for field in zip(*batches, strict=True)]


def test_pieces_by_hand():
    """Of 4 tokens each; a last one of a single token stays with the piece before it."""
    split = split_of([3, 9, 10, 4])
    cut = pieces(split, 4)
    assert cut.starts.tolist() == [0, 3, 7, 12, 16, 20, 22, 26]
    places = ("0[0]", "1[0]", "1[1]", "2[0]", "2[1]", "2[2]", "3[0]")
    assert cut.names == tuple(f"document {place}" for place in places)
    streams = Streams(cut, batch_size=2, segment_len=2, shuffle=True)
    assert streams.num_predicted == 26 - 7
    whole = pieces(split, 99)
    assert whole.starts.tolist() == split.starts.tolist()
    with pytest.raises(ValueError, match=r"^size: found 1, accepted: 2 or more"):
        pieces(split, 1)


def test_an_epoch_by_hand():
    """The longest document (3 segments) has row 0; two others (2 and 1) share row 1."""
    streams = Streams(split_of([3, 7, 4]), batch_size=2, segment_len=2)
    assert streams.steps_per_epoch == 3
    tokens, targets, weights, resets, valid, documents, positions = epoch_of(streams)
    assert tokens.tolist() == [
        [[100, 101], [102, 103], [104, 105]],
        [[0, 1], [200, 201], [202, 0]],
    ]
    assert targets.tolist() == [
        [[101, 102], [103, 104], [105, END]],
        [[1, END], [201, 202], [END, 0]],
    ]
    assert weights.tolist() == [[[1, 1], [1, 1], [1, 1]], [[1, 1], [1, 1], [1, 0]]]
    assert (valid == (weights > 0)).all()
    assert resets.tolist() == [[True, False, False], [True, True, False]]
    assert documents.tolist() == [[1, 1, 1], [0, 2, 2]]
    assert positions.tolist() == [[[0, 1], [2, 3], [4, 5]], [[0, 1], [0, 1], [2, -1]]]
    assert streams.num_predicted == 11 and streams.fill == 11 / 12


def test_a_sliding_window_by_hand():
    """Windows of 4 every 2 tokens over 8 predictions, and one document that fits into one."""
    streams = Streams(split_of([9, 3]), batch_size=1, segment_len=4, stride=2)
    tokens, targets, weights, resets, valid, _, positions = epoch_of(streams)
    assert tokens.tolist() == [[[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [100, 101, 0, 0]]]
    assert targets.tolist() == [[[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, END], [101, END, 0, 0]]]
    assert weights.tolist() == [[[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]]]
    assert resets.tolist() == [[True, False, False, True]]
    assert valid[0, :3].all() and positions[0, 2].tolist() == [4, 5, 6, 7]
    odd = Streams(split_of([8]), batch_size=1, segment_len=4, stride=3)  # 7 predictions
    assert epoch_of(odd)[2].tolist() == [[[1, 1, 1, 1], [0, 1, 1, 1]]]


@pytest.mark.parametrize("stride", [0, 1])
def test_where_there_is_loss_is_told_without_a_token(stride):
    """As the weights of each batch say it, also of a sliding window."""
    split = split_of([3, 7, 4])
    streams = Streams(split, batch_size=2, segment_len=2, stride=stride)
    blind = Streams(split._replace(tokens=None), batch_size=2, segment_len=2, stride=stride)
    for step in range(streams.steps_per_epoch):
        expected = streams.batch(step, [0, 1]).weights > 0
        assert expected.any()
        np.testing.assert_array_equal(blind.with_loss(step, [0, 1]), expected)


def test_a_row_that_runs_out():
    streams = Streams(split_of([2, 6]), batch_size=3, segment_len=2, segments=2)
    assert streams.steps_per_epoch == 2
    tokens, targets, weights, resets, valid, documents, positions = epoch_of(streams)
    assert documents.tolist() == [[1, 1, 1, -1], [0, -1, -1, -1], [-1] * 4]
    assert weights.sum(axis=2).tolist() == [[2, 2, 1, 0], [1, 0, 0, 0], [0] * 4]
    assert resets.sum(axis=1).tolist() == [1, 1, 0]
    for array, fill in ((tokens, 0), (targets, 0), (weights, 0), (positions, -1)):
        assert (array[~valid] == fill).all()
    # The next epoch begins at the next batch.
    again = streams.batch(2, range(3))
    assert again.tokens.tolist() == tokens[:, :2].tolist() and again.resets[:2, 0].all()


def test_dtypes():
    batch = Streams(split_of([4, 4]), batch_size=2, segment_len=3).batch(0, [0, 1])
    assert batch.types is None
    assert [a.dtype for a in batch[:5]] == [np.int32, np.int32, np.float32, np.bool_, np.bool_]
    assert batch.valid is not None  # full segments too: one structure for all batches


@st.composite
def options(draw):
    lengths = draw(st.lists(st.integers(2, 12), min_size=1, max_size=9))
    return Streams(
        split_of(lengths),
        batch_size=draw(st.integers(1, 5)),
        segment_len=draw(st.integers(1, 5)),
        segments=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**40)),
        shuffle=draw(st.booleans()),
    )


@settings(deadline=None)
@given(options(), st.integers(0, 3))
def test_every_token_is_predicted_once_in_order_in_one_row(streams, epoch):
    """What each row predicts is whole documents, one after the other, and nothing is missing."""
    split, end_of = streams.split, streams.split.starts[1:]
    tokens, targets, weights, resets, valid, documents, positions = epoch_of(streams, epoch)
    read = []
    for row in range(streams.batch_size):
        inside = valid[row]
        places, begun = [], []
        for w in range(tokens.shape[1]):
            count = inside[w].sum()
            assert inside[w, :count].all(), "padding is at the right"
            assert resets[row, w] == (count > 0 and positions[row, w, 0] == 0)
            assert (documents[row, w] >= 0) == (count > 0)
            begun += [documents[row, w]] if resets[row, w] else []
            of = split.starts[documents[row, w]] + positions[row, w, :count]
            assert (of < end_of[documents[row, w]]).all()
            places += of.tolist()
        expected = [
            place for one in begun for place in range(split.starts[one], split.starts[one + 1] - 1)
        ]
        assert places == expected
        np.testing.assert_array_equal(tokens[row][inside], split.tokens[places])
        np.testing.assert_array_equal(targets[row][inside], split.tokens[np.array(places, int) + 1])
        read += begun
    assert sorted(read) == list(range(len(split.names)))
    np.testing.assert_array_equal(weights, valid)
    assert weights.sum() == streams.num_predicted == len(split.tokens) - len(split.names)
    assert np.isclose(streams.fill, weights.mean())


@settings(deadline=None)
@given(options(), st.integers(0, 20), st.data())
def test_rows_are_the_same_on_any_host(streams, step, data):
    """Any rows in any order, made by an object that has seen no other step."""
    rows = data.draw(st.lists(st.integers(0, streams.batch_size - 1), min_size=1, unique=True))
    whole = streams.batch(step, range(streams.batch_size))
    names = ("split", "batch_size", "segment_len", "segments", "seed", "shuffle")
    fresh = Streams(**{name: getattr(streams, name) for name in names})
    for some, all_ in zip(fresh.batch(step, np.array(rows))[:5], whole[:5], strict=True):
        np.testing.assert_array_equal(some, all_[rows])
    for some, all_ in zip(
        fresh.places(step, rows), streams.places(step, range(streams.batch_size)), strict=True
    ):
        np.testing.assert_array_equal(some, all_[rows])


@settings(deadline=None)
@given(options())
def test_rows_are_balanced(streams):
    """Longest first: without its shortest document no row has more than any other row has."""
    sizes = -(-(np.diff(streams.split.starts) - 1) // streams.segment_len)
    *_, resets, _, documents, _ = epoch_of(streams)
    loads = (documents >= 0).sum(axis=1)
    for row, load in enumerate(loads):
        walked = documents[row][resets[row]]
        assert load == sizes[walked].sum()
        assert load - sizes[walked].min(initial=load) <= loads.min()
    assert streams.steps_per_epoch == math.ceil(loads.max() / streams.segments)


def test_orders_differ_by_epoch_and_seed_only_when_shuffled():
    split = split_of([3] * 12)

    def orders(**options):
        streams = Streams(split, batch_size=2, segment_len=2, **options)
        return [epoch_of(streams, epoch)[5].tolist() for epoch in range(3)]

    still, first, other = orders(seed=1), orders(seed=1, shuffle=True), orders(seed=2, shuffle=True)
    assert still[0] == still[1] == still[2] == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    distinct = {str(order) for order in (still[0], *first, *other)}
    assert len(distinct) == 7
    assert orders(seed=1, shuffle=True) == first
    # Equal documents change rows too, not only their places in a row.
    assert {tuple(sorted(order[0])) for order in first} != {(0, 2, 4, 6, 8, 10)}


def test_perplexity_per_word_and_bits_per_byte_by_hand():
    """A uniform model over 4 tokens loses ln 4 for each of 8 predictions, 6 words and 20 bytes."""
    streams = Streams(split_of([4, 6]), batch_size=1, segment_len=2)
    assert streams.num_predicted == 8
    assert np.isclose(streams.word_perplexity(8 * math.log(4)), 4 ** (8 / 6))
    assert np.isclose(streams.bits_per_byte(8 * math.log(4)), 16 / 20)


def test_without_words_there_is_no_perplexity_a_word():
    """Text without spaces: infinite, as is what no float holds."""
    split = split_of([3, 4])._replace(words=np.array([0, 0]))
    assert Streams(split, 1, 2).word_perplexity(5.0) == math.inf
    assert Streams(split_of([3, 4]), 1, 2).word_perplexity(1e5) == math.inf  # 6 words


def test_from_text_to_batches(tmp_path: Path):
    for name, content in {"a.txt": "ab", "b.txt": "cdé"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    streams = Streams(splits.tokenize(tmp_path, None, Bytes()), batch_size=2, segment_len=4)
    batch = streams.batch(0, range(2))
    # Row 0 has the second document: 4 tokens and its end, which two bytes precede.
    assert batch.tokens.tolist() == [[[97, 98, 0, 0]], [[99, 100, 0xC3, 0xA9]]]
    assert batch.targets.tolist() == [[[98, 256, 0, 0]], [[100, 0xC3, 0xA9, 256]]]


def test_refusals():
    split = split_of([3, 4])
    for name, value in {"batch_size": 0, "segment_len": 0, "segments": 0, "seed": -1}.items():
        given = {"batch_size": 1, "segment_len": 1, name: value}
        with pytest.raises(ValueError, match=rf"^{name}: found {value}, accepted: .* or more$"):
            Streams(split, **given)
    for stride in (-1, 3):
        with pytest.raises(ValueError, match=rf"^stride: found {stride}, accepted: 0\.\.2$"):
            Streams(split, batch_size=1, segment_len=2, stride=stride)
    with pytest.raises(
        ValueError, match="document 'document 1': found 1 tokens, accepted: 2 or more"
    ):
        Streams(split_of([3, 1]), batch_size=1, segment_len=2)
    empty = TokenizedSplit(split.tokens[:0], split.starts[:1], (), split.words[:0], split.bytes[:0])
    with pytest.raises(ValueError, match="documents: found 0, accepted: 1 or more"):
        Streams(empty, batch_size=1, segment_len=2)
    streams = Streams(split, batch_size=2, segment_len=2)
    with pytest.raises(ValueError, match="step: found -1, accepted: 0 or more"):
        streams.batch(-1, [0])
    for row in (-1, 2):
        with pytest.raises(ValueError, match=rf"row: found {row}, accepted: 0\.\.1"):
            streams.batch(0, [0, row])


@settings(deadline=None)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=5), st.integers(1, 5), st.data())
def test_a_sliding_window_predicts_every_token_once(lengths, segment_len, data):
    stride = data.draw(st.integers(1, segment_len))
    streams = Streams(split_of(lengths), 2, segment_len, stride=stride)
    _, _, weights, _, valid, documents, positions = epoch_of(streams)
    assert (valid >= (weights > 0)).all()
    counted = weights > 0
    of = np.broadcast_to(documents[..., None], counted.shape)[counted]
    pairs = sorted(zip(of.tolist(), positions[counted].tolist(), strict=True))
    assert pairs == [(i, j) for i, size in enumerate(lengths) for j in range(size - 1)]
