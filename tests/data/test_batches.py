"""Segments of documents, checks of ids and the prefetch thread."""

import threading

import numpy as np
import pytest

from inf_former_jax.data.batches import Batch, check_tokens, prefetch, segment


def document(rows: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.arange(1, rows * size + 1).reshape(rows, size)
    return tokens, tokens + 1, np.linspace(0.5, 1, rows * size).reshape(rows, size)


def test_segments_with_padding_by_hand():
    tokens = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    got = segment(tokens, tokens + 20, np.ones((2, 5)), segment_len=3)
    np.testing.assert_array_equal(got.tokens, [[[1, 2, 3], [4, 5, 0]], [[6, 7, 8], [9, 10, 0]]])
    np.testing.assert_array_equal(got.targets[0], [[21, 22, 23], [24, 25, 0]])
    np.testing.assert_array_equal(got.weights[1], [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(got.resets, [[True, False], [True, False]])
    assert got.valid is not None
    np.testing.assert_array_equal(got.valid[0], [[True] * 3, [True, True, False]])


def test_segments_without_padding_have_no_mask():
    got = segment(*document(2, 6), segment_len=3)
    assert got.valid is None
    np.testing.assert_array_equal(got.tokens, document(2, 6)[0].reshape(2, 2, 3))


@pytest.mark.parametrize("size", [1, 4, 5, 8, 11])
def test_joined_segments_are_the_document(size):
    given = document(3, size)
    got = segment(*given, segment_len=4, pad_target=7)
    windows = -(-size // 4)
    assert got.resets.sum() == 3 and got.resets[:, 0].all()
    for array, original, fill in zip(got[:3], given, (0, 7, 0), strict=True):
        joined = array.reshape(3, 4 * windows)
        np.testing.assert_array_equal(joined[:, :size], original.astype(array.dtype))
        assert (joined[:, size:] == fill).all()
    assert (got.valid is None) == (size % 4 == 0)


def test_dtypes_and_fields():
    got = segment(*document(1, 5), segment_len=4)
    assert [a.dtype for a in got[:5]] == [np.int32, np.int32, np.float32, np.bool_, np.bool_]
    assert got.types is None and got.lower is None
    assert Batch._fields == ("tokens", "targets", "weights", "resets", "valid", "types", "lower")


def test_segments_do_not_alias_the_document():
    tokens = np.zeros((1, 4), np.int32)
    segment(tokens, tokens, np.zeros((1, 4), np.float32), segment_len=4).tokens[:] = 1
    assert (tokens == 0).all()


def test_segment_refuses_bad_input():
    with pytest.raises(ValueError, match=r"^segment_len: found 0, accepted: 1 or more$"):
        segment(*document(1, 5), segment_len=0)
    with pytest.raises(ValueError, match=r"^tokens per document: found 0, accepted: 1 or more$"):
        segment(*document(1, 0), segment_len=4)


def test_segment_refuses_other_shapes():
    tokens, targets, weights = document(2, 6)
    # TypeError where the shape annotations are checked, ValueError where they are not.
    with pytest.raises((ValueError, TypeError), match="targets"):
        segment(tokens, targets[:, :5], weights, segment_len=3)
    with pytest.raises((ValueError, TypeError), match="weights"):
        segment(tokens, targets, weights[:1], segment_len=3)


@pytest.mark.parametrize("bad", [-1, 5, 300])
def test_check_tokens_names_the_first_place(bad):
    tokens = np.arange(24).reshape(2, 3, 4) % 5
    check_tokens(tokens, 5, "prompt")
    tokens[1, 0, 2] = tokens[1, 2, 3] = bad
    expected = rf"^prompt\[1, 0, 2\]: found {bad}, accepted: a token id in 0\.\.4$"
    with pytest.raises(ValueError, match=expected):
        check_tokens(tokens, 5, "prompt")


def test_prefetch_keeps_the_items_and_their_order():
    items = [None, 3, ValueError("an item"), "x"]
    assert list(prefetch(iter(items))) == items
    assert list(prefetch([])) == []


def test_prefetch_works_ahead_by_its_size():
    made, third = [], threading.Event()

    def source():
        for i in range(1000):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    stream = prefetch(source(), size=2)
    assert made == []
    assert next(stream) == 0
    assert third.wait(5), "one item is taken, two wait and one is in hand"
    assert made == [0, 1, 2, 3]
    stream.close()


def test_prefetch_raises_the_exception_of_its_source_after_the_items():
    def source():
        yield 1
        yield 2
        raise KeyError("broken source")

    stream = prefetch(source())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(KeyError, match="broken source"):
        next(stream)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_prefetch_ends_its_thread_when_closed(size, taken):
    before = threading.active_count()
    stream = prefetch(range(1000), size)
    for expected in range(taken):
        assert next(stream) == expected
    assert threading.active_count() == before + (taken > 0)
    stream.close()
    assert threading.active_count() == before


def test_prefetch_refuses_no_room():
    with pytest.raises(ValueError, match=r"^size: found 0, accepted: 1 or more$"):
        prefetch([1], size=0)
