"""Batches of conversations of unequal length: what is in them, and what a memory makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.dialogue.batches import ConversationBatches
from experiments.dialogue.records import Conversation, Turn
from experiments.dialogue.stream import Encoder, Layout, Segments, segments
from inf_former_jax.data import tokens
from inf_former_jax.memory import state as memories
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation

T = 8


def conversation(number: int, size: int, length: int = 4) -> Segments:
    """`size` inputs, all of them `number`; targets and types follow from it. All but one counts."""
    shape = (-(-size // length), length)
    valid = (np.arange(shape[0] * length) < size).reshape(shape)
    tokens = np.where(valid, number, 0).astype(np.int32)
    weights = valid.astype(np.float32)
    weights[0, 0] = 0
    return Segments(tokens, 2 * tokens, weights, valid, 3 * tokens)


def corpus(sizes) -> list[Segments]:
    return [conversation(number, size) for number, size in enumerate(sizes, 1)]


def epoch_of(batches, epoch=0):
    """The whole batches of an epoch."""
    rows, steps = range(batches.batch_size), batches.steps_per_epoch
    return [batches.batch(epoch * steps + step, rows) for step in range(steps)]


def numbers_of(batch) -> list[int]:
    """Which conversation each row is; 0 = none."""
    return batch.tokens.max(axis=(1, 2)).tolist()


sizes = st.lists(st.integers(2, 17), min_size=1, max_size=20)


# What is in them


def test_by_hand():
    """The shortest first; rows end together; a row without a conversation in the last batch."""
    batches = ConversationBatches(corpus([9, 2, 5]), batch_size=2)
    assert (batches.segments, batches.steps_per_epoch) == (3, 2)
    assert (batches.num_read, batches.num_predicted) == (16, 13)
    first, second = epoch_of(batches)
    nothing = [0, 0, 0, 0]
    np.testing.assert_array_equal(
        first.tokens, [[nothing, nothing, [2, 2, 0, 0]], [nothing, [3, 3, 3, 3], [3, 0, 0, 0]]]
    )
    np.testing.assert_array_equal(first.targets, 2 * first.tokens)
    np.testing.assert_array_equal(first.types, 3 * first.tokens)
    np.testing.assert_array_equal(first.valid, first.tokens > 0)
    np.testing.assert_array_equal(
        first.weights, [[nothing, nothing, [0, 1, 0, 0]], [nothing, [0, 1, 1, 1], [1, 0, 0, 0]]]
    )
    np.testing.assert_array_equal(first.resets, [[False, False, True], [False, True, False]])
    np.testing.assert_array_equal(second.tokens[0], [[1] * 4, [1] * 4, [1, 0, 0, 0]])
    np.testing.assert_array_equal(second.resets, [[True, False, False], [False] * 3])
    assert second.lower is None and not any(leaf[1].any() for leaf in second[:-1])
    assert [leaf.dtype for leaf in first[:-1]] == [
        np.int32,
        np.int32,
        np.float32,
        bool,
        bool,
        np.int32,
    ]


@settings(max_examples=40)
@given(sizes, st.integers(1, 7), st.booleans(), st.integers(0, 3))
def test_every_conversation_once_an_epoch(sizes, batch_size, shuffle, epoch):
    """Whole, at the end of its row, behind nothing but padding."""
    talks = corpus(sizes)
    batches = ConversationBatches(talks, batch_size, 5, shuffle)
    found = []
    for batch in epoch_of(batches, epoch):
        assert batch.tokens.shape == (batch_size, max(len(one.tokens) for one in talks), 4)
        for row, number in enumerate(numbers_of(batch)):
            leaves = batch.tokens, batch.targets, batch.weights, batch.valid, batch.types
            own = [leaf[row] for leaf in leaves]
            if not number:
                assert not any(leaf.any() for leaf in own) and not batch.resets[row].any()
                continue
            found.append(number)
            first = batches.segments - len(talks[number - 1].tokens)
            assert np.flatnonzero(batch.resets[row]).tolist() == [first]
            for leaf, part in zip(own, talks[number - 1], strict=True):
                np.testing.assert_array_equal(leaf[first:], part)
                assert not leaf[:first].any()
            assert batch.valid[row, -1, 0], "rows end together"
            assert not batch.weights[row][~batch.valid[row]].any()
    assert sorted(found) == list(range(1, len(sizes) + 1))
    assert batches.num_read == sum(sizes) and batches.num_predicted == sum(sizes) - len(sizes)


@settings(max_examples=40)
@given(sizes, st.integers(1, 7), st.booleans())
def test_rows_and_order_of_asking_change_nothing(sizes, batch_size, shuffle):
    """A batch is its number's alone: rows apart, newest first, by others of the same seed."""
    talks = corpus(sizes)
    batches = ConversationBatches(talks, batch_size, 5, shuffle)
    count = 2 * batches.steps_per_epoch
    whole = [batches.batch(step, range(batch_size)) for step in range(count)]
    rows = np.random.default_rng(0).permutation(batch_size).tolist()
    other = ConversationBatches(talks, batch_size, 5, shuffle)
    for step in reversed(range(count)):
        apart = [other.batch(step, [row]) for row in rows]
        for leaf, *parts in zip(*(one[:-1] for one in (whole[step], *apart)), strict=True):
            np.testing.assert_array_equal(leaf[rows], np.concatenate(parts))
    some = other.batch(1, np.arange(0))
    assert some.tokens.shape == (0, batches.segments, 4) and some.resets.shape[0] == 0


def orders(batches, epoch):
    return [number for batch in epoch_of(batches, epoch) for number in numbers_of(batch)]


def test_epochs_are_shuffled():
    """Another order in every epoch and of every seed, the same for the same; else by length."""
    talks = corpus([(7 * i) % 16 + 2 for i in range(40)])
    made = ConversationBatches(talks, 4, 5, shuffle=True)
    several = [orders(made, epoch) for epoch in range(3)]
    several += [orders(ConversationBatches(talks, 4, 6, shuffle=True), 0)]
    assert len(set(map(tuple, several))) == 4
    assert orders(ConversationBatches(talks, 4, 5, shuffle=True), 1) == several[1]
    # Not only the batches' order, but which conversations are together.
    together = [{frozenset(one[i : i + 4]) for i in range(0, 40, 4)} for one in several]
    assert len(together[0] & together[1]) < 5
    plain = ConversationBatches(talks, 4, 5)
    lengths = [len(talks[number - 1].tokens) for number in orders(plain, 0)]
    assert lengths == sorted(lengths) and orders(plain, 0) == orders(plain, 3)


def test_lengths_of_a_batch_are_alike_and_come_in_any_order():
    """Much less padding than by chance; and long ones are not kept for the end."""
    lengths = np.random.default_rng(0).integers(2, 80, 256)
    talks = corpus(lengths)
    made = ConversationBatches(talks, 8, 0, shuffle=True)
    sizes = made.sizes[np.array(orders(made, 0)).reshape(-1, 8) - 1]
    longest = sizes.max(axis=1)
    chance = np.random.default_rng(1).permutation(made.sizes).reshape(-1, 8).max(axis=1)
    assert longest.sum() < 0.75 * chance.sum()
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.4
    # Across pools too, or a batch would be of the same 128 conversations in every epoch.
    first_pool = set(orders(made, 0)[:128])
    assert 30 < len(first_pool & set(orders(made, 1)[:128])) < 100


@pytest.mark.parametrize("document", ["whole", "none"])
def test_conversations_of_one_turn_are_batched_with_others(document):
    """They weigh nothing; alone they are refused, for there is nothing to learn."""
    turns = Turn(0, "a", 0), Turn(1, "bc", 0)
    talk = Conversation("line 1", "", ("document",), turns, (True, True), None)
    encoder = Encoder(tokens.Bytes(), Layout(document))
    cut = [segments(encoder(one), 4) for one in (talk._replace(turns=turns[:1]), talk)]
    batches = ConversationBatches(cut, 2)
    (batch,) = epoch_of(batches)
    assert batches.num_predicted == batch.weights.sum() == 3
    np.testing.assert_array_equal(batch.weights.sum(axis=(1, 2)), [0, 3])
    assert batch.valid[0].sum() == len(encoder(talk._replace(turns=turns[:1])).tokens) - 1
    with pytest.raises(ValueError, match=r"^scored tokens of all conversations: found 0, acc"):
        ConversationBatches(cut[:1], 1)


def test_refusals():
    talks = corpus([3, 9])
    for arguments, name in (
        ((talks, 0), "batch_size"),
        ((talks, 2, -1), "seed"),
        (([], 2), "conversations"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: found (0|-1), accepted: [01] or more$"):
            ConversationBatches(*arguments)
    batches = ConversationBatches(talks, 2)
    with pytest.raises(ValueError, match=r"^step: found -1, accepted: 0 or more$"):
        batches.batch(-1, [0])
    for row in (-1, 2):
        with pytest.raises(ValueError, match=rf"^row: expected 0\.\.1, found {row}$"):
            batches.batch(0, [row])


# What a memory makes of them


@pytest.fixture(scope="module")
def evaluate(tiny_model):
    """(batch, memory) -> (sums, memory) of a tiny ∞-former with parameters that matter."""
    ops, memory = jax.device_put(operators(tiny_model)), memories.init(tiny_model, 2)
    init, given = Decoder(tiny_model).init, (jax.random.key(0), np.zeros((2, T), np.int32), memory)
    shapes = jax.eval_shape(lambda *given: init(*given, operators=ops), *given)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), "f4"), shapes)
    step = evaluation.make_eval_step(tiny_model)

    def run(batch, memory=memory):
        # All batches in 5 segments, padding first: one program.
        more = [(0, 0), (5 - batch.tokens.shape[1], 0)]
        batch = jax.tree.map(
            lambda leaf: jnp.pad(jnp.asarray(leaf), more + [(0, 0)] * (leaf.ndim - 2)), batch
        )
        return step(params, memory, batch, ops, jax.random.key(1))

    return run


def spoken(seed: int, size: int) -> Segments:
    """Random tokens of the tiny model's 12, of which every other one counts."""
    made = conversation(1, size, T)
    rng = np.random.default_rng(seed)
    tokens, targets, types = rng.integers(0, 12, (3, *made.tokens.shape)).astype(np.int32)
    weights = made.weights * (rng.random(made.weights.shape) < 0.5)
    return Segments(tokens, targets, weights.astype(np.float32), made.valid, types)


def only(*conversations):
    """The one batch that they make, in two rows."""
    (batch,) = epoch_of(ConversationBatches(conversations, 2))
    return batch


def rows_equal(one, i, other, j):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[i], b[j], rtol=1e-5, atol=1e-6)


SHORT, LONG = spoken(0, 3 * T - 3), spoken(1, 5 * T - 2)  # three segments write, and are read


def test_a_memory_is_the_conversations_alone(evaluate):
    """Beside a longer one, padded in front, after other conversations, even after NaN: the same."""
    (sums, beside), (of_short, short), (of_long, long) = (
        evaluate(only(*some)) for some in ((SHORT, LONG), (SHORT,), (LONG,))
    )
    assert short.layers[0].long_term.writes[0] == 1 and short.seen[0] == 3 * T
    rows_equal(beside, 0, short, 0)
    rows_equal(beside, 1, long, 0)
    assert sums["weight"] == SHORT.weights.sum() + LONG.weights.sum()
    for name in ("loss", "correct", "kl", "kl_count"):
        np.testing.assert_allclose(sums[name], of_short[name] + of_long[name], rtol=1e-5)
    before = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == jnp.int32 else leaf.at[0].set(jnp.nan), beside
    )
    for left in (beside, before):
        again, after = evaluate(only(SHORT, LONG), left)
        jax.tree.map(np.testing.assert_array_equal, (again, after), (sums, beside))


def test_padding_at_the_end_changes_no_figure(evaluate):
    """Other tokens in it; and the memory before the last segment's own is the same."""
    padding = ~SHORT.valid
    other = SHORT._replace(
        **{
            name: np.where(padding, 11 - getattr(SHORT, name), getattr(SHORT, name))
            for name in ("tokens", "targets", "types")
        }
    )
    (sums, memory), (same, after) = evaluate(only(SHORT, LONG)), evaluate(only(other, LONG))
    jax.tree.map(np.testing.assert_array_equal, sums, same)
    for one, two in zip(memory.layers, after.layers, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.long_term, two.long_term)
    # The figures are not blind: what is not padding does change them.
    spoken = SHORT._replace(tokens=np.where(SHORT.valid, 11 - SHORT.tokens, SHORT.tokens))
    assert abs(evaluate(only(spoken, LONG))[0]["loss"] - sums["loss"]) > 1e-3
