"""All segments of a batch at once: the same sums, gradients and memory as one after the other.

In float64. Each case is one update of either schedule, from a memory carried in, with documents
that begin in the middle and rows that end early.
"""

import dataclasses
from functools import cache
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.state import LayerMemory, Memory, reset
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models import all_segments
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.training import evaluation, schedules, sharding
from inf_former_jax.training.objective import Objective
from inf_former_jax.training.state import TrainState
from inf_former_jax.training.step import make_train_step
from tests.golden import jit
from tests.pairs import GPT2, PAIRS

ROWS, SEGMENTS, LENGTH, VOCAB = 4, 5, 4, 12
KL_WEIGHT = 0.1
#: A segment that is padding in every row, and where it stands.
HOLE = 2

LONG_TERM = LongTermConfig(num_basis=4, widths=(0.1, 0.3), num_samples=6, bins=5)
UNIFORM = ModelConfig(
    vocab_size=VOCAB,
    num_layers=1,
    num_heads=2,
    head_dim=2,
    d_model=4,
    d_inner=4,
    segment_len=LENGTH,
    mem_len=LENGTH,
    dropout=0.0,
    long_term=LONG_TERM,
)
STICKY = dataclasses.replace(UNIFORM, long_term=dataclasses.replace(LONG_TERM, sticky=True))
POWER = dataclasses.replace(LONG_TERM, contraction="power", tau=0.75, horizon=2)
DROPPING = {"dropout": 0.2, "attention_dropout": 0.3, "query_chunk": 3}
DEEP = {"num_layers": 2}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_batch(padded: bool = True, hole: bool = False, typed: bool = False) -> Batch:
    """Loss in segments 1, 3 and 4; row 3 goes on from before, others begin or begin anew."""
    rng = np.random.default_rng(0)
    shape = (ROWS, SEGMENTS, LENGTH)
    weights, valid = rng.random(shape), np.ones(shape, bool)
    weights[:, [0, 2]] = 0
    starts = np.zeros((ROWS, SEGMENTS), bool)
    starts[0, 0] = starts[1, 3] = starts[2, [1, 2]] = True
    if padded:
        valid[0, 4, 2:] = valid[1, 2, 1:] = valid[3, 3:] = False
    if hole:
        valid[:, HOLE] = False
    tokens, targets, types = rng.integers(0, VOCAB, (3, *shape)).astype(np.int32)
    return Batch(
        tokens,
        targets,
        weights * valid,
        starts,
        valid if padded or hole else None,
        types if typed else None,
    )


@cache
def params_of(cfg):
    init = Decoder(cfg).init
    rngs = dict.fromkeys(("params", "locations"), jax.random.key(0))
    of = (rngs, jnp.zeros((ROWS, LENGTH), int), init_memory(cfg, ROWS))
    shapes = jax.eval_shape(lambda *of: init(*of, operators=operators(cfg)), *of)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, shapes)


def carried(cfg, segments: int = 3):
    """A memory as that many segments could have left it."""
    rng = np.random.default_rng(2)
    empty = init_memory(cfg, ROWS, jnp.float64)
    writes = max(0, segments - cfg.mem_len // LENGTH - 1)

    def filled(leaf):
        whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.full_like(leaf, writes) if whole else jnp.asarray(rng.random(leaf.shape))

    return jax.tree.map(filled, empty)._replace(seen=jnp.full_like(empty.seen, segments * LENGTH))


SGD = optax.sgd(1.0)


@cache
def step_of(cfg, schedule, empty, size=0):
    """Compiled once for all batches of the same shape."""
    objective = Objective(KL_WEIGHT, empty_memory=empty, schedule=schedule, segments_at_once=size)
    return make_train_step(cfg, SGD, objective)


def start(cfg):
    params = jax.tree.map(jnp.asarray, params_of(cfg))
    number, key = jnp.zeros((), jnp.int32), jax.random.key(7)
    return TrainState(number, params, SGD.init(params), carried(cfg), key)


def update(cfg, batch, schedule, empty=False, size=0):
    """(gradient, sums, memory) of one update: plain descent at rate 1."""
    params = params_of(cfg)
    new, row = step_of(cfg, schedule, empty, size)(start(cfg), batch, operators(cfg))
    grads = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, new.params)
    return grads, jax.device_get(row), new.memory


def check_trees(actual, expected, rtol=1e-10):
    """Each leaf within rtol of its norm."""

    def check(path, a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b) + 1e-14, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, actual, expected)


def check_schedules(cfg, batch, empty=False, complete=True, size=0):
    """Complete: every parameter has a gradient. Size: segments at once."""
    expected = update(cfg, batch, "sequential", empty)
    check_trees(update(cfg, batch, "parallel", empty, size), expected)
    grads, row, _ = expected
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        known = complete and "key_bias" not in name  # softmax knows no key bias
        assert (leaf != 0).any() or not known, name
    assert row["loss"] > 0
    return expected


def without_loss(batch, *silent):
    """No loss in these (rows, segments)."""
    weights = batch.weights.copy()
    for rows, numbers in silent:
        weights[rows, numbers] = 0
    return batch._replace(weights=weights)


ALL = slice(None)
#: What has no loss beside segments 0 and 2: of each program, in all rows and in some.
SILENT = {
    "all": [],
    "all of some rows": [([0, 2], 1)],
    "second half": [(ALL, 1)],
    "second half of some rows": [(ALL, 1), ([0, 2], 3)],
    "last": [(ALL, [1, 3])],
    "last of some rows": [(ALL, [1, 3]), (0, 4)],
    "fourth": [(ALL, [1, 4])],
}


def check_losses(cfg, batch):
    for name, silent in SILENT.items():
        check_schedules(cfg, without_loss(batch, *silent), complete=name == "all")


def test_sinks_are_those_of_one_segment_after_the_other():
    """With documents that begin anywhere, and segments of padding, also a last one that resets."""
    rng, count, rows, width = np.random.default_rng(0), 6, 16, 2
    cfg = dataclasses.replace(UNIFORM, long_term=None, sinks=3)
    resets = rng.random((rows, count)) < 0.4
    x = jnp.asarray(rng.normal(size=(rows, count, LENGTH, width)))
    for runs in (None, np.array([True, False, True, True, False, True]), np.arange(count) < 5):
        sinks, fifo = jnp.asarray(rng.normal(size=(rows, 3, width))), jnp.zeros((rows, LENGTH, 2))
        memory = Memory(jnp.full(rows, 2 * LENGTH), (LayerMemory(fifo, sinks=sinks),))
        first = reset(memory, jnp.asarray(resets[:, 0]))
        course = all_segments.follow_counters(
            cfg, first, resets, runs=None if runs is None else jnp.asarray(runs)
        )
        each, last = course.sinks(first.layers[0].sinks, x)
        each = each.reshape(rows, count, 3, width)
        for w in range(count):
            memory = reset(memory, jnp.asarray(resets[:, w]))
            (layer,) = memory.layers
            np.testing.assert_array_equal(each[:, w], layer.sinks)
            if runs is None or runs[w]:
                layer = state.push(layer, x[:, w], memory.seen)
                memory = Memory(state.advance(memory.seen, LENGTH), (layer,))
        np.testing.assert_array_equal(last, memory.layers[0].sinks)


@pytest.mark.parametrize(
    "changes",
    [{"long_term": None}, pytest.param({}, marks=pytest.mark.slow)],
    ids=["none", "sticky"],
)
def test_two_segments(changes):
    """Both differentiated, or the second alone: row 1 begins with it, row 3 is padding there."""
    batch = jax.tree.map(lambda leaf: leaf[:, 2:4], random_batch())
    weights = np.ones_like(batch.weights) * batch.valid
    cfg = dataclasses.replace(STICKY, norm="pre", **{"mem_len": 0, **changes})
    check_schedules(cfg, batch._replace(weights=weights))
    check_schedules(cfg, without_loss(batch, (ALL, 0)), complete=False)


@pytest.mark.parametrize(
    ("kinds", "first"),
    [
        ("2", 0),
        ("1", 1),
        ("12", 1),
        ("21", 0),
        ("01", 2),
        ("112", 2),
        ("121", 1),
        ("211", 0),
        ("11122", 2),
        ("11222", 2),
        ("12222", 0),
        ("01012", 4),
        ("11111", 5),
        ("20001", 0),
        ("0", None),
        ("000", None),
        ("010", 3),
    ],
)
def test_where_the_gradient_begins(kinds, first):
    """At 0, the middle, the last segment or nowhere: no loss before it. None: all is padding.

    Digits: kinds of segments.
    """
    starts = schedules.first_middle_last(len(kinds))
    branch = schedules.branch_taken(jnp.array([int(kind) for kind in kinds]), starts)
    assert [*starts, None][branch] == first


@pytest.mark.parametrize(
    ("count", "size", "groups"),
    [
        (5, 2, ["0", "12", "34"]),
        (4, 2, ["01", "23"]),
        (3, 3, ["012"]),
        (2, 3, ["01"]),
        (3, 1, ["0", "1", "2"]),
        (1, 1, ["0"]),
    ],
)
def test_groups_are_counted_from_the_end(count, size, groups):
    """Each group appends its numbers and a 9: what was carried, times 10 each."""

    def body(carry, group):
        for number in group:
            carry = 10 * carry + number
        return 10 * carry + 9, None

    digits = schedules.scan_groups(body, jnp.array(0, int), jnp.arange(count), size)
    assert int(digits) == int("9".join(groups) + "9")


#: Every kind of memory that knows this schedule, as small as it gets.
KINDS = {
    "no memory": {"long_term": None, "mem_len": 0},
    "short-term": {"long_term": None, "mem_len": 5, "same_length": True, "clamp_len": 3},
    "uniform": {"mem_len": 2 * LENGTH},
    "power": {"long_term": POWER, "mem_len": 0, "norm": "pre"},
    "sticky": {"long_term": STICKY.long_term},
    "drawn": {
        **GPT2,
        "long_term": dataclasses.replace(STICKY.long_term, locations="draw"),
        "dropout": 0.2,
    },
}


#: No memory, one that is read at a place, and one that is read by content: the others are slow.
QUICK = ("no memory", "sticky", "content, gaussian, intervals")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in KINDS | PAIRS],
)
def test_one_after_the_other(kind):
    """Logits' and KL's gradients, and the memory, by calls of the decoder: every kind, quickly.

    With either schedule a reset heals a row.
    """
    cfg = dataclasses.replace(UNIFORM, **(KINDS | PAIRS)[kind])
    decoder, batch, ops = Decoder(cfg), random_batch(), operators(cfg)
    cotangent = np.random.default_rng(3).normal(size=(*batch.tokens.shape, VOCAB))
    counted = np.asarray(batch.valid)[..., None] * cotangent

    def rngs(number):
        key = jax.random.fold_in(jax.random.key(4), number)
        return {"dropout": key, "locations": jax.random.fold_in(key, 1)}

    def value(out, counted):
        return (out.logits * counted).sum() + sum(total for total, _ in out.aux.values())

    def all_at_once(params, memory):
        def noise(number):
            return decoder.apply(params, ROWS, True, rngs=rngs(number), method="noise")

        out = decoder.apply(
            params,
            batch.tokens,
            memory,
            batch.resets,
            operators=ops,
            noise=jax.vmap(noise)(jnp.arange(SEGMENTS)),
            where=batch.valid,
            method="all_segments",
        )
        return value(out, counted), (out.memory, jnp.moveaxis(out.logits, 1, 0))

    def one_by_one(params, memory):
        def step(memory, segment):
            number, tokens, resets, where, counted = segment
            out = decoder.apply(
                params,
                tokens,
                reset(memory, resets),
                operators=ops,
                train=True,
                where=where,
                rngs=rngs(number),
            )
            return out.memory, (value(out, counted), out.logits)

        by_row = batch.tokens, batch.resets, batch.valid, counted
        by_segment = (jnp.swapaxes(leaf, 0, 1) for leaf in by_row)
        memory, (values, logits) = jax.lax.scan(step, memory, (jnp.arange(SEGMENTS), *by_segment))
        return values.sum(), (memory, logits)

    params, memory = {"params": params_of(cfg)}, carried(cfg)
    ways = [jit(jax.value_and_grad(way, has_aux=True)) for way in (all_at_once, one_by_one)]
    found, expected = results = [way(params, memory) for way in ways]
    check_trees(found, expected)
    assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(expected[1]))
    for way, clean in zip(ways, results, strict=True):
        check_resets_heal(lambda memory, way=way: way(params, memory), memory, clean)


def check_resets_heal(run, memory, clean):
    """A row that held NaN or ∞ is as if it had not once it is reset; others are not touched."""
    for bad in (np.nan, np.inf):
        # Row 0 is reset before the first segment: not even a gradient is another one.
        jax.tree.map(np.testing.assert_array_equal, run(spoilt(memory, 0, bad)), clean)
        # Row 1 before segment 3.
        (_, (after, logits)), _ = run(spoilt(memory, 1, bad))
        (_, (expected, healthy)), _ = clean
        jax.tree.map(np.testing.assert_array_equal, after, expected)
        same = np.ones((SEGMENTS, ROWS), bool)
        same[:3, 1] = False
        np.testing.assert_array_equal(logits[same], healthy[same])
        assert np.isfinite(logits[0, 1]).all() == (not jax.tree.leaves(memory.layers))


def spoilt(memory, row, bad):
    """The memory with nothing but `bad` in all numbers of a row, but not in its counters."""

    def spoil(leaf):
        return leaf if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf.at[row].set(bad)

    return jax.tree.map(spoil, memory)


@pytest.mark.slow
def test_sticky_with_dropout_and_a_hole():
    """Salience, masks, resets, padding of rows and of a whole segment, all in one."""
    check_losses(dataclasses.replace(STICKY, **DROPPING), random_batch(hole=True))


@pytest.mark.slow
def test_a_mesh_equals_one_device():
    """4 devices over rows, 2 over heads; loss in segments 1, 3 and 4, or in the last alone."""
    mesh, state = sharding.make_mesh(2), start(STICKY)
    placed = sharding.shardings(state, mesh)
    take = make_train_step(STICKY, SGD, Objective(KL_WEIGHT, schedule="parallel"), placed)
    ops = sharding.everywhere(operators(STICKY), mesh)
    for silent in ([], [(ALL, [1, 3])]):
        batch = without_loss(random_batch(hole=True), *silent)
        expected, _ = step_of(STICKY, "parallel", False)(start(STICKY), batch, operators(STICKY))
        given = sharding.place_batch(
            lambda rows, batch=batch: jax.tree.map(lambda leaf: leaf[rows], batch), ROWS, mesh
        )
        actual, _ = take(jax.device_put(start(STICKY), placed), given, ops)
        for part in ("params", "memory"):
            check_trees(getattr(actual, part), getattr(expected, part))


@pytest.mark.slow
def test_bfloat16_is_close():
    """bfloat16 has 8 bits: 2⁻⁸ = .4 % a product, some of them one after another."""
    half = dataclasses.replace(STICKY, dtype="bfloat16")
    exact, rounded = (update(cfg, random_batch(), "parallel")[1]["loss"] for cfg in (STICKY, half))
    assert np.isfinite(rounded) and 1e-6 < abs(rounded / exact - 1) < 2e-2


#: What else an update goes through; each kind of memory alone is in KINDS.
CASES = {
    "hole": (dataclasses.replace(UNIFORM, mem_len=2 * LENGTH), {"hole": True}),
    "sticky, long": (dataclasses.replace(STICKY, mem_len=2 * LENGTH, **DEEP), {"padded": False}),
    "GPT-2 with dropout and drawn locations": (
        dataclasses.replace(
            STICKY,
            **GPT2 | DROPPING,
            long_term=dataclasses.replace(POWER, sticky=True, locations="draw"),
        ),
        {"typed": True, "hole": True},
    ),
    "Transformer-XL": (
        dataclasses.replace(
            UNIFORM, long_term=None, mem_len=5, same_length=True, clamp_len=3, **DEEP
        ),
        {"hole": True},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("cfg", "given"), CASES.values(), ids=CASES)
def test_schedules_agree(cfg, given):
    check_losses(cfg, random_batch(**given))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 7])
def test_groups_agree(size):
    """A first group that is smaller, groups of padding alone, one that is never full.

    Also with the memory emptied before every segment, in the last case those of padding too.
    """
    cfg = dataclasses.replace(STICKY, mem_len=2 * LENGTH, **DROPPING)
    for silent in ([], [(ALL, [1])], [(ALL, [1, 3])]):
        batch = without_loss(random_batch(hole=True), *silent)
        check_schedules(cfg, batch, complete=not silent, size=size)
    batch = random_batch(hole=True) if size == 7 else random_batch()._replace(valid=None)
    check_schedules(cfg, batch, empty=True, size=size)


@pytest.mark.slow
def test_evaluation_agrees():
    """Without dropout, whatever gradient the model was trained with."""
    cfg = dataclasses.replace(STICKY, memory_gradient=1, **DROPPING)
    given = params_of(cfg), carried(cfg), random_batch(hole=True), operators(cfg), jax.random.key(3)
    expected, actual = (
        evaluation.make_eval_step(cfg, schedule=schedule)(*given)
        for schedule in ("sequential", "parallel")
    )
    check_trees(actual, expected)
    assert actual[0]["loss"] > 0 and actual[0]["kl_count"] > 0
    # Two of five segments at once.
    with mock.patch.object(schedules, "CACHED_TOKENS", 2 * ROWS * LENGTH + 1):
        check_trees(evaluation.make_eval_step(cfg, schedule="parallel")(*given), expected)


def test_what_has_no_parallel_schedule_is_refused_at_the_door():
    differentiated = dataclasses.replace(UNIFORM, memory_gradient=1)
    compressed = dataclasses.replace(
        UNIFORM, long_term=None, compressed=CompressedConfig(rate=2, length=2)
    )
    objective, tx = Objective(schedule="parallel"), optax.sgd(1.0)
    with pytest.raises(
        ValueError, match=r"^segments_at_once: found -1, accepted: a whole number ≥ 0$"
    ):
        Objective(segments_at_once=-1)
    with pytest.raises(ValueError, match=r"^segments_at_once: found 2 with .*sequential, accepted"):
        Objective(segments_at_once=2)
    with pytest.raises(ValueError, match=r"^memory_gradient: found 1 with .*, accepted: 0 there$"):
        make_train_step(differentiated, tx, objective)
    refused = r"^schedule: found parallel, accepted: sequential for .* a compressed memory$"
    with pytest.raises(ValueError, match=refused):
        make_train_step(compressed, tx, objective)
    with pytest.raises(ValueError, match=refused):
        evaluation.make_eval_step(compressed, schedule="parallel")


def test_segments_that_are_not_whole_are_refused():
    tokens, resets = np.zeros((ROWS, 2, LENGTH - 1), int), np.zeros((ROWS, 2), bool)
    with pytest.raises(ValueError, match=rf"^tokens: found .*, accepted: T = {LENGTH}"):
        Decoder(UNIFORM).apply(
            {"params": params_of(UNIFORM)},
            tokens,
            carried(UNIFORM),
            resets,
            operators=operators(UNIFORM),
            method="all_segments",
        )


def test_the_course_by_hand():
    """Resets, a row that ended and a segment of padding move the counters as they are meant to."""
    memory = reset(carried(UNIFORM, segments=2), np.array([True, False, True, True]))
    resets = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    reads, runs = np.ones((ROWS, 4), bool), np.array([True, True, False, True])
    reads[1, 3] = False
    found = all_segments.follow_counters(UNIFORM, memory, resets, reads=reads, runs=runs)
    seen = [[0, 1, 0, 0], [2, 3, 4, 4], [0, 1, 2, 0], [0, 1, 2, 2]]
    np.testing.assert_array_equal(found.seen, np.array(seen) * LENGTH)
    np.testing.assert_array_equal(found.after, np.array([1, 5, 1, 3]) * LENGTH)
    np.testing.assert_array_equal(found.writes, [[0] * 4, [0, 1, 2, 2], [0] * 4, [0] * 4])
    due = [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(found.due, np.array(due, bool))
    np.testing.assert_array_equal(found.clears, resets)
