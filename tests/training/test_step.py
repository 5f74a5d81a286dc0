"""One update and one evaluation: against plain loops, across meshes, and what they leave behind.

All in float64, so that a tolerance tells a wrong formula from rounding: Adam divides by the
gradient's size, which in float32 turns rounding of 1e-9 into updates of full size.
"""

import dataclasses
import io
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.memory.state import reset
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation, loop, metrics, optim, sharding
from inf_former_jax.training.objective import Objective, token_figures, token_sums
from inf_former_jax.training.state import TrainState, init_state
from inf_former_jax.training.step import all_finite, make_train_step

ROWS, SEGMENTS, LENGTH, VOCAB = 8, 4, 8, 12
KL_WEIGHT = 0.1  # the KL's gradient is as large as the task's


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_batch(seed: int, resets=slice(None)) -> Batch:
    """Loss in segments 1 and 3; documents that begin in the middle; a padded last segment."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, SEGMENTS, LENGTH)
    weights = rng.random(shape) * (rng.random(shape) < 0.7)
    weights[:, [0, 2]] = 0
    weights[2, 1] = 0  # a row without loss where the others have some
    starts = np.zeros((ROWS, SEGMENTS), bool)
    starts[resets, 0] = starts[[1, 4], 2] = starts[5, 3] = True
    valid = np.ones(shape, bool)
    valid[:3, 3, 5:] = valid[3, 3] = False  # row 3: nothing left of its document
    tokens, targets = rng.integers(0, VOCAB, (2, *shape)).astype(np.int32)
    return Batch(tokens, targets, weights * valid, starts, valid)


def mesh_of(data: int, fsdp: int, model: int):
    """A mesh over the first data × fsdp × model devices."""
    return sharding.make_mesh(model, data * fsdp * model, fsdp)


class Trainer(NamedTuple):
    """A compiled step, and what it takes."""

    mesh: jax.sharding.Mesh
    placed: object
    train_step: object
    operators: object
    initial: TrainState

    def fresh(self, **changes) -> TrainState:
        """The initial state in buffers of its own, which a step may eat up."""
        state = self.initial._replace(**changes)
        return jax.device_put(jax.tree.map(jnp.copy, state), self.placed)

    def place(self, batch: Batch) -> Batch:
        return sharding.place_batch(
            lambda rows: jax.tree.map(lambda leaf: leaf[rows], batch), ROWS, self.mesh
        )

    def run(self, state, *batches):
        """(last state, metrics of each step)."""
        rows = []
        for batch in batches:
            state, row = self.train_step(state, self.place(batch), self.operators)
            rows.append(jax.device_get(row))
        return state, rows


def float64(tree):
    """All floating-point leaves in float64, where Flax's default made them float32."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        tree,
    )


def make_trainer(cfg, tx, shape, params, trained="all", skip=False) -> Trainer:
    mesh = mesh_of(*shape)
    memory, number = init_memory(cfg, ROWS, jnp.float64), jnp.zeros((), jnp.int32)
    initial = TrainState(number, params, tx.init(params), memory, jax.random.key(7))
    placed = sharding.shardings(initial, mesh)
    train_step = make_train_step(cfg, tx, Objective(KL_WEIGHT), placed, trained, skip)
    return Trainer(mesh, placed, train_step, sharding.everywhere(operators(cfg), mesh), initial)


ADAM = optim.optimizer(optim.OptimConfig(steps=10, learning_rate=1e-2))


@pytest.fixture(scope="module")
def initial(tiny_model, x64) -> TrainState:
    """As a run on one device begins."""
    return init_state(tiny_model, ADAM, ROWS, 3, mesh_of(1, 1, 1))


@pytest.fixture(scope="module")
def plain(tiny_model, initial) -> Trainer:
    """One device, no dropout, and plain descent at rate 1: old - new params is the gradient."""
    return make_trainer(tiny_model, optax.sgd(1.0), (1, 1, 1), float64(initial.params))


@pytest.fixture(scope="module")
def dropping(tiny_model, plain):
    """The tiny model with dropout everywhere, Adam and clipping, on a mesh of a given shape."""
    cfg = dataclasses.replace(tiny_model, dropout=0.2, attention_dropout=0.1)
    made = {}

    def on(*shape) -> Trainer:
        if shape not in made:
            made[shape] = make_trainer(cfg, ADAM, shape, plain.initial.params)
        return made[shape]

    return on


@pytest.fixture(scope="module")
def eval_step(tiny_model):
    return evaluation.make_eval_step(tiny_model)


def gradient(trainer, state, batch):
    """(gradient, state after it, metrics), with sgd(1) as optimiser."""
    before = jax.device_get(state.params)
    state, rows = trainer.run(state, batch)
    return (
        jax.tree.map(np.subtract, before, jax.device_get(state.params)),
        state,
        rows[0],
    )


def check_trees(actual, expected, rtol, atol=0.0):
    """Each leaf within rtol of its norm: single numbers of a leaf may cancel to nothing."""

    def check(path, a, b):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.linalg.norm(a - b)
        assert error <= rtol * np.linalg.norm(b) + atol, f"{jax.tree_util.keystr(path)}: {error}"

    jax.tree_util.tree_map_with_path(check, actual, expected)


# The same on any mesh


@pytest.mark.slow  # test_pairs.py has a quick one
@pytest.mark.parametrize(
    "shape", [(2, 1, 1), (8, 1, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8)], ids=str
)
def test_sharded_equals_unsharded(dropping, shape):
    """Dropout included: a row's mask depends on its number in the global batch alone."""
    one, many = dropping(1, 1, 1), dropping(*shape)
    expected, expected_rows = one.run(one.fresh(), random_batch(0))
    actual, rows = many.run(many.fresh(), random_batch(0))
    check_trees(rows, expected_rows, rtol=1e-10)
    # Where the gradient is nothing but rounding (1e-18), Adam's ε of 1e-8 still lets 1e-12 pass.
    check_trees(actual, expected, rtol=1e-10, atol=1e-10)
    assert jax.tree.map(lambda leaf: leaf.sharding, actual) == many.placed


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 2, 1), (2, 2, 2)], ids=str)
def test_devices_add_up_once_a_step(dropping, shape):
    """Nothing is summed or gathered over rows inside a loop or a choice: once is enough."""
    many = dropping(*shape)
    traced = many.train_step.trace(many.fresh(), many.place(random_batch(0)), many.operators)
    found = collectives(traced.jaxpr.jaxpr)
    assert found and all(path == ("shard_map",) for path in found)


def collectives(jaxpr, path=()):
    """The names of the operations around each sum or gathering over devices."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name.startswith(("psum", "reduce_scatter", "all_gather", "ppermute", "all_to_all")):
            yield path
        inner = (leaf for leaf in jax.tree.leaves(equation.params) if hasattr(leaf, "eqns"))
        outer = path if name == "jit" else (*path, name)
        for jaxpr in inner:
            yield from collectives(getattr(jaxpr, "jaxpr", jaxpr), outer)


def test_dropout_is_on(plain, dropping):
    """Else the test above would not be about it."""
    one = dropping(1, 1, 1)
    _, (dropped,) = one.run(one.fresh(), random_batch(0))
    _, (whole,) = plain.run(plain.fresh(), random_batch(0))
    assert abs(dropped["loss"] - whole["loss"]) > 1e-3 * whole["loss"]


@pytest.mark.slow
def test_initial_state_is_the_same_on_any_mesh(tiny_model, initial):
    sharded = init_state(tiny_model, ADAM, ROWS, 3, mesh_of(2, 2, 2))
    assert not sharded.params["block_0"]["attention"]["query"].is_fully_replicated
    check_trees(sharded, initial, rtol=1e-12)


@pytest.mark.slow
def test_the_step_under_pmap(tiny_model, plain):
    """Each device makes the update of its own rows, and the optimiser takes the mean gradient.

    Rows of one device have as many weights and queries as those of another: only then is the mean
    over devices that over rows. On a mesh the step has the denominators of the whole batch.
    """
    halves = jax.tree.map(lambda leaf: np.concatenate([leaf[:4]] * 2), random_batch(0))
    tokens = random_batch(1).tokens
    batch = halves._replace(tokens=tokens)
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "devices"))
    tx = optax.chain(mean, optax.sgd(1.0))
    step = make_train_step(tiny_model, tx, Objective(KL_WEIGHT))
    begun = jax.device_get(plain.fresh()._replace(key=None))
    begun = begun._replace(opt_state=tx.init(begun.params), key=jax.random.key(7))

    def split(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), tree)

    axes = TrainState(None, None, None, 0, None)
    both = jax.pmap(step, "devices", in_axes=(axes, 0, None), devices=jax.devices()[:2])
    state, row = both(
        begun._replace(memory=split(begun.memory)), split(batch), jax.device_get(plain.operators)
    )
    expected, (whole,) = plain.run(plain.fresh(), batch)
    for device in range(2):
        own = jax.tree.map(lambda leaf: leaf[device], state.params)  # noqa: B023
        check_trees(own, expected.params, rtol=1e-10)
    memory = jax.tree.map(lambda leaf: leaf.reshape(8, *leaf.shape[2:]), state.memory)
    check_trees(memory, expected.memory, rtol=1e-10)
    for name in ("loss", "weight", "kl", "kl_count"):
        np.testing.assert_allclose(row[name].sum(), whole[name], rtol=1e-10)
    assert (np.asarray(row["loss"])[0] != np.asarray(row["loss"])[1]).all()


# The gradient


def plain_objective(params, model, memory, batch, ops):
    """The objective of the whole batch, segment after segment, straight from SPEC §2 and §3."""
    age = np.asarray(memory.seen) // LENGTH  # segments of the row's document before this one
    loss = kl = count = 0.0
    for w in range(SEGMENTS):
        start, valid, weights = (
            batch.resets[:, w],
            batch.valid[:, w],
            batch.weights[:, w],
        )
        memory = jax.lax.stop_gradient(reset(memory, start))
        age = np.where(start, 0, age)
        out = model(params, batch.tokens[:, w], memory, ops, valid)
        log_probs = jax.nn.log_softmax(out.logits)
        chosen = jnp.take_along_axis(log_probs, batch.targets[:, w, :, None], axis=-1)[..., 0]
        loss -= (weights * chosen).sum()
        # A document's third segment is the first to read: the first was written before it.
        reads = valid & ((age >= 2) & (weights > 0).any(axis=1))[:, None]
        densities = sum(layer["kl"] for layer in out.info)  # [B, H, T]
        kl += (densities * reads[:, None]).sum()
        count += densities.shape[1] * reads.sum()
        memory, age = out.memory, age + 1
    objective = loss / batch.weights.sum() + KL_WEIGHT * kl / count
    return objective, ((loss, kl, count), memory)


@pytest.fixture(scope="module")
def plain_gradient(tiny_model):
    """`jax.grad` of it; only a segment is compiled, the loop over segments is Python's."""

    @jax.jit
    def model(params, tokens, memory, ops, where):
        return Decoder(tiny_model).apply(
            {"params": params}, tokens, memory, operators=ops, where=where
        )

    def of(state, batch, ops):
        take = jax.grad(plain_objective, has_aux=True)
        return take(state.params, model, state.memory, batch, ops)

    return of


@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
def test_gradient_inside_the_scan_is_that_of_the_whole(plain, plain_gradient, carried):
    """Two segments with loss, resets in the middle, padding; with a memory from before or not."""
    state = plain.fresh()
    if carried:
        state, _ = plain.run(state, random_batch(0))
    batch = random_batch(1, resets=slice(5) if carried else slice(None))
    expected, (sums, memory) = plain_gradient(state, batch, plain.operators)
    actual, state, row = gradient(plain, state, batch)
    check_trees(actual, expected, rtol=1e-9)
    check_trees(state.memory, memory, rtol=1e-9)
    np.testing.assert_allclose([row[k] for k in ("loss", "kl", "kl_count")], sums, rtol=1e-9)
    np.testing.assert_allclose(row["grad_norm"], optax.tree.norm(expected), rtol=1e-9)
    assert sums[2] > 0
    # The KL weighs in, else its denominator would not be tested.
    assert np.linalg.norm(expected["block_0"]["long_term"]["read"]["sigma"]) > 1e-6


def test_the_gradient_of_the_memory_alone(tiny_model, plain):
    """It is the memory's part of the whole one; of the rest it is 0, and no norm counts it."""
    chosen = make_trainer(tiny_model, optax.sgd(1.0), (1, 1, 1), plain.initial.params, "memory")
    batch = random_batch(1)
    expected, _, _ = gradient(plain, plain.fresh(), batch)
    actual, _, row = gradient(chosen, chosen.fresh(), batch)
    kinds = optim.labels(expected)
    expected = jax.tree.map(lambda g, kind: g * (kind == "memory"), expected, kinds)
    check_trees(actual, expected, rtol=1e-10)
    np.testing.assert_allclose(row["grad_norm"], optax.tree.norm(expected), rtol=1e-9)
    assert row["grad_norm"] > 0


def marked(batch: Batch) -> Batch:
    """Token 11 in segments 0 and 2 only, which carry no loss; 3 in its place elsewhere."""
    tokens = np.where(batch.tokens == 11, 3, batch.tokens)
    tokens[:, [0, 2], 0] = 11
    return batch._replace(tokens=tokens)


def test_segments_without_loss_move_the_memory_but_get_no_gradient(plain):
    batch = marked(random_batch(2))
    grads, _, row = gradient(plain, plain.fresh(), batch)
    embedding = grads["embed"]["embedding"]
    assert (embedding[11] == 0).all() and (embedding[3] != 0).all()
    # What segment 0 says reaches segment 3 of rows 2-3 through the memory alone.
    other = batch.tokens.copy()
    other[6:, 0, 1:] = 5
    _, _, changed = gradient(plain, plain.fresh(), batch._replace(tokens=other))
    assert abs(changed["loss"] - row["loss"]) > 1e-9


def test_a_batch_without_any_loss_changes_the_memory_only(plain):
    batch = random_batch(3)
    batch = batch._replace(weights=np.zeros_like(batch.weights))
    grads, state, row = gradient(plain, plain.fresh(), batch)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
    assert row["weight"] == row["kl_count"] == row["grad_norm"] == 0
    long_term = state.memory.layers[1].long_term
    np.testing.assert_array_equal(long_term.writes, [2, 0, 2, 1, 0, 0, 2, 2])
    largest = abs(np.asarray(long_term.coeffs)).max(axis=(1, 2))
    np.testing.assert_array_equal(largest > 0, np.asarray(long_term.writes) > 0)


def shifted(batch: Batch, front: int) -> Batch:
    """Segments 1 and 2 of a batch, fresh documents, with two of padding around them."""
    order = np.roll([1, 2, 0, 3], front)
    moved = jax.tree.map(lambda leaf: leaf[:, order], batch)
    content = np.isin(order, [1, 2])
    moved.resets[:] = order == 1
    return moved._replace(
        weights=moved.weights * content[:, None], valid=moved.valid & content[:, None]
    )


def test_segments_of_padding_are_not_run(plain, eval_step):
    """Before or behind the document, whatever stands in them: the same to the last bit."""
    expected = None
    for front in range(3):
        batch = shifted(random_batch(9), front)
        grads, state, row = gradient(plain, plain.fresh(), batch)
        sums, memory = evaluate(eval_step, plain, batch)
        assert (np.asarray(state.memory.seen) == 2 * LENGTH).all() and row["weight"] > 0
        found = grads, state.memory, row, sums, memory
        expected = found if expected is None else expected
        check_trees(found, expected, rtol=0.0)


@pytest.mark.slow
def test_groups_of_padding_are_not_run(tiny_model, plain):
    """The same with a gradient through the memory, whose groups are counted from the end."""
    cfg = dataclasses.replace(tiny_model, memory_gradient=1)
    trainer = make_trainer(cfg, optax.sgd(1.0), (1, 1, 1), plain.initial.params)
    batches = (shifted(random_batch(9), front) for front in (0, 2, 1))
    behind, before, around = (gradient(trainer, trainer.fresh(), batch) for batch in batches)
    assert (np.asarray(before[1].memory.seen) == 2 * LENGTH).all()
    # In two groups, each half of padding: other gradients, but the same sums and memory.
    sums = [{name: row[name] for name in ("loss", "weight", "kl")} for *_, row in (behind, around)]
    check_trees((around[1].memory, sums[1]), (behind[1].memory, sums[0]), rtol=1e-12)
    pairs = ((found[0], found[1].memory, found[2]) for found in (before, behind))
    check_trees(*pairs, rtol=0.0)
    assert before[2]["grad_norm"] > 0


# The compiled program


def test_the_old_state_is_donated(plain):
    old = plain.fresh()
    plain.run(old, random_batch(0))
    kept = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(old)
        if not leaf.is_deleted()
    ]
    assert not kept


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)], ids=str
)
def test_no_step_after_the_first_is_compiled(dropping, caplog, shape):
    """Three steps with other batches, nor traced. (The jit's cache size also counts look-ups, and a
    trace that is found in JAX's cache is logged as one, of microseconds.)"""
    trainer = dropping(*shape)
    state, first = trainer.run(trainer.fresh(), random_batch(0))
    with jax.log_compiles(), jax.explain_cache_misses(True):
        state, rows = trainer.run(state, random_batch(1), random_batch(2))
        assert "Compiling" not in caplog.text and "CACHE MISS" not in caplog.text
        jax.jit(lambda x: x + 1)(state.step)  # a program that is new is seen
    assert "Compiling jit(<lambda>)" in caplog.text and "TRACING CACHE MISS" in caplog.text
    assert int(state.step) == 3 and len({float(row["loss"]) for row in first + rows}) == 3


@pytest.mark.slow
def test_no_step_after_the_first_is_traced(plain):
    """chex raises at a second trace; states and batches of all steps look the same to jit."""
    traced_once = chex.assert_max_traces(plain.train_step.__wrapped__, n=1)
    train_step = jax.jit(traced_once, donate_argnums=0)
    state = plain.fresh()
    for seed in range(3):
        state, _ = train_step(state, plain.place(random_batch(seed)), plain.operators)
    assert int(state.step) == 3
    with pytest.raises(AssertionError, match="traced > 1 times"):
        train_step(state._replace(step=state.step + 1.5), plain.place(random_batch(0)), None)


def test_same_seed_same_bits(dropping):
    trainer = dropping(1, 1, 1)
    batches = [random_batch(0), random_batch(1)]
    first, second = (trainer.run(trainer.fresh(), *batches)[0] for _ in range(2))
    check_trees(first, second, rtol=0.0)
    other, _ = trainer.run(trainer.fresh(key=jax.random.key(8)), *batches)
    assert (other.params["logits"]["kernel"] != first.params["logits"]["kernel"]).any()


def test_dropout_differs_between_steps(dropping):
    """The key is folded with the step: the same batch in the same state drops other units."""
    trainer = dropping(1, 1, 1)
    _, (first,) = trainer.run(trainer.fresh(), random_batch(0))
    _, (second,) = trainer.run(trainer.fresh(step=jnp.array(1, jnp.int32)), random_batch(0))
    assert first["loss"] != second["loss"]


# Sums and evaluation


def test_token_sums_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5))
    targets, weights = rng.integers(0, 5, (2, 3)), rng.random((2, 3))
    targets[0, 1] = logits[0, 1].argmax()  # at least one is right
    weights[1, 2] = 0
    loss = correct = 0.0
    for b in range(2):
        for t in range(3):
            probs = np.exp(logits[b, t]) / np.exp(logits[b, t]).sum()
            loss -= weights[b, t] * np.log(probs[targets[b, t]])
            correct += weights[b, t] * (logits[b, t].argmax() == targets[b, t])
    logits[1, 2] = np.inf  # of weight 0: its loss is NaN and must not count
    sums = token_sums(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weights))
    expected = {"loss": loss, "correct": correct, "weight": weights.sum()}
    assert sums.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-12, err_msg=name)


def evaluate(eval_step, trainer, batch, memory=None):
    """(sums, memory) without dropout; from an empty memory unless given one."""
    memory = trainer.initial.memory if memory is None else memory
    return eval_step(trainer.initial.params, memory, batch, trainer.operators, trainer.initial.key)


def test_the_right_token_is_the_first_of_the_largest():
    """Integers tie often: in most of the rows the arg-max is one of several equal logits."""
    rng = np.random.default_rng(0)
    logits = rng.integers(-2, 3, (400, 8)).astype(np.float32)
    targets = rng.integers(0, 8, 400)
    right = token_figures(logits, targets).right
    np.testing.assert_array_equal(right, logits.argmax(axis=-1) == targets)
    assert right.sum() == 39
    logits[:, 3] = np.nan
    assert not token_figures(logits, targets).right.any()


def test_evaluation_is_the_plain_loop(plain, plain_gradient, eval_step):
    batch = random_batch(4)
    sums, memory = evaluate(eval_step, plain, batch)
    _, (expected, expected_memory) = plain_gradient(plain.initial, batch, plain.operators)
    actual = [sums[name] for name in ("loss", "kl", "kl_count")]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    check_trees(memory, expected_memory, rtol=1e-12)


def test_evaluation_of_uneven_batches_is_that_of_one(plain, eval_step):
    """5 + 3 rows in batches of 8: the rows that fill up have weight 0 and count nowhere."""
    batch = random_batch(4)
    whole = metrics.ratios(evaluate(eval_step, plain, batch)[0])
    total = None
    for rows in (np.arange(5), np.arange(5, 8)):
        filled = np.concatenate([rows, np.full(ROWS - len(rows), 7)])
        part = jax.tree.map(lambda leaf, filled=filled: leaf[filled], batch)
        part.weights[len(rows) :] = 0
        total = metrics.add(total, evaluate(eval_step, plain, part)[0])
    assert whole.keys() == {"loss", "accuracy", "kl"}
    for name, value in metrics.ratios(total).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-12, err_msg=name)


def single_segments(batch: Batch):
    """The batch's segments as batches of W = 1, in reading order."""
    for w in range(SEGMENTS):
        yield jax.tree.map(lambda leaf, w=w: leaf[:, w : w + 1], batch)


def test_one_segment_a_step_equals_all_in_one(plain, eval_step):
    """The memory carried between calls is the memory carried inside one."""
    batch = random_batch(5)
    expected, expected_memory = evaluate(eval_step, plain, batch)
    total, memory = None, None
    for part in single_segments(batch):
        sums, memory = evaluate(eval_step, plain, part, memory)
        total = metrics.add(total, sums)
    check_trees(memory, expected_memory, rtol=1e-12)
    for name, value in total.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


def test_evaluation_with_a_foreign_memory(tiny_model, plain, eval_step):
    """Each segment reads what the row before it in the batch remembers, and writes its own."""
    batch = random_batch(6)
    foreign = evaluation.make_eval_step(tiny_model, foreign_memory=True)
    sums, memory = evaluate(foreign, plain, batch)
    total, own = None, plain.initial.memory
    for part in single_segments(batch):
        own = state.reset(own, jnp.asarray(part.resets[:, 0]))
        part = part._replace(resets=np.zeros_like(part.resets))
        layers = (
            layer._replace(long_term=jax.tree.map(lambda x: jnp.roll(x, 1, 0), layer.long_term))
            for layer in own.layers
        )
        one, _ = evaluate(eval_step, plain, part, own._replace(layers=tuple(layers)))
        _, own = evaluate(eval_step, plain, part, own)
        total = metrics.add(total, one)
    for name, value in total.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-12, err_msg=name)
    check_trees(memory, own, rtol=1e-12)
    usual, _ = evaluate(eval_step, plain, batch)
    assert abs(usual["loss"] - sums["loss"]) > 1e-9


def test_a_foreign_memory_is_refused(tiny_model, plain):
    """With the control that it excludes, in the other schedule, and of a single row."""
    for options in ({"empty_memory": True}, {"schedule": "parallel"}):
        with pytest.raises(ValueError, match=r"^foreign_memory: found True"):
            evaluation.make_eval_step(tiny_model, foreign_memory=True, **options)
    alone = jax.tree.map(lambda leaf: leaf[:1], plain.initial.memory)
    with pytest.raises(ValueError, match=r"^memory: found 1 row on a device"):
        state.foreign_long_term(alone)


def test_evaluation_with_the_memory_emptied(tiny_model, plain, eval_step):
    """Emptied before every segment: no more than the write before its own reading is left."""
    batch = random_batch(6)
    emptied = evaluation.make_eval_step(tiny_model, empty_memory=True)
    sums, memory = evaluate(emptied, plain, batch)
    total, by_hand = None, plain.initial.memory
    for part in single_segments(batch):
        empty = jax.tree.map(jnp.zeros_like, [layer.long_term for layer in by_hand.layers])
        layers = zip(by_hand.layers, empty, strict=True)
        by_hand = by_hand._replace(layers=tuple(a._replace(long_term=b) for a, b in layers))
        one, by_hand = evaluate(eval_step, plain, part, by_hand)
        total = metrics.add(total, one)
    for name, value in total.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-12, err_msg=name)
    assert all(max(layer.long_term.writes) == 1 for layer in memory.layers)
    usual, _ = evaluate(eval_step, plain, batch)
    assert abs(usual["loss"] - sums["loss"]) > 1e-9 and usual["kl"] != sums["kl"]


# NaN


def spoil(state, where):
    """The state with one NaN in it."""
    if where == "params":
        bias = state.params["block_1"]["inner"]["bias"]
        block = {**state.params["block_1"]}
        block["inner"] = {**block["inner"], "bias": bias.at[0].set(jnp.nan)}
        return state._replace(params={**state.params, "block_1": block})
    layer = state.memory.layers[1]
    coeffs = layer.long_term.coeffs.at[6, 0, 0].set(jnp.nan)
    layer = layer._replace(long_term=layer.long_term._replace(coeffs=coeffs))
    return state._replace(memory=state.memory._replace(layers=(state.memory.layers[0], layer)))


# The spoilt parameter is behind all that the memory takes in.
@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("params", "loss, grad_norm, parameters"),
        ("memory", "loss, kl, grad_norm, memory, parameters"),
    ],
)
def test_a_planted_nan_stops_the_loop_at_its_step(plain, tmp_path, where, named):
    def train_step(state, batch, ops):
        if int(state.step) == 2:
            state = spoil(state, where)
        # Rows 5-7 go on from the batch before, so that no reset wipes the memory's NaN out.
        return plain.train_step(state, plain.place(batch), ops)

    batches = iter([random_batch(0), *(random_batch(seed, slice(5)) for seed in range(1, 6))])
    console = Console(file=io.StringIO())
    with metrics.MetricsWriter(tmp_path) as writer:
        reporter = loop.Reporter(writer, loop.progress_bar(console), ROWS)
        with pytest.raises(metrics.NonFiniteError, match=rf"^step 3: NaN .* in {named}$"):
            given = train_step, batches, plain.operators, lambda state: {}, reporter
            loop.train(loop.LoopConfig(log_every=5), plain.fresh(), 6, *given)


def test_a_nan_that_only_the_update_makes_is_seen_at_its_step(dropping):
    """The loss and the gradient are those of the parameters before the update."""
    trainer = dropping(1, 1, 1)
    state = trainer.fresh()
    spoilt = jax.tree.map(
        lambda leaf: leaf.at[...].set(jnp.nan) if leaf.ndim else leaf, state.opt_state
    )
    _, (row,) = trainer.run(state._replace(opt_state=spoilt), random_batch(0))
    with pytest.raises(metrics.NonFiniteError, match=r"^step 1: .* in parameters, optimizer$"):
        metrics.check_finite(1, row)


@pytest.fixture(scope="module")
def skipping(tiny_model, plain):
    """Adam, and updates that are not finite are left out."""
    return make_trainer(tiny_model, ADAM, (1, 1, 1), plain.initial.params, skip=True)


def bits(tree):
    """Every leaf of a state as bytes; keys are their data."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), tree._replace(key=0, step=0))


def test_an_update_that_is_not_finite_leaves_no_trace(skipping):
    """Parameters, optimiser and memory stay to the bit; the step is counted, its figures are 0."""
    bad = random_batch(1)
    bad = bad._replace(weights=np.where(bad.weights == bad.weights.max(), np.nan, bad.weights))
    first, (whole,) = skipping.run(skipping.fresh(), random_batch(0))
    expected = bits(first)
    after, (row,) = skipping.run(first, bad)
    assert bits(after) == expected and int(after.step) == 2
    assert row["skipped"] and row["loss"] == row["grad_norm"] == row["weight"] == 0
    metrics.check_finite(2, row)  # what is not finite is not there
    assert not whole["skipped"] and whole["loss"] > 0 and whole["memory_norm"] > 0
    # The next one goes on as if the bad one had not been.
    _, (second,) = skipping.run(after, random_batch(2))
    _, (one, other) = skipping.run(skipping.fresh(), random_batch(0), random_batch(2))
    assert second["loss"] == other["loss"] and one["loss"] == whole["loss"]


def test_a_state_that_is_not_finite_is_left_out(skipping):
    """A NaN that only the new state has: the loss of the update is that of the old parameters."""
    state = skipping.fresh()
    spoilt = jax.tree.map(
        lambda leaf: leaf.at[...].set(jnp.nan) if leaf.ndim else leaf, state.opt_state
    )
    before = bits(state._replace(opt_state=spoilt))
    after, (row,) = skipping.run(state._replace(opt_state=spoilt), random_batch(0))
    assert row["skipped"] and bits(after) == before


def test_whole_updates_are_the_same_with_and_without_the_option(skipping, tiny_model, plain):
    given = make_trainer(tiny_model, ADAM, (1, 1, 1), plain.initial.params)
    states = [
        one.run(one.fresh(), random_batch(0), random_batch(1))[0] for one in (given, skipping)
    ]
    for leaf, other in zip(*map(jax.tree.leaves, states), strict=True):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(leaf, other, rtol=1e-12, atol=1e-14)


def test_the_norm_of_the_memory_is_that_of_its_coefficients(plain):
    state, (row,) = plain.run(plain.fresh(), random_batch(0))
    coeffs = [np.asarray(layer.long_term.coeffs).ravel() for layer in state.memory.layers]
    assert row["memory_norm"] == pytest.approx(np.linalg.norm(np.concatenate(coeffs)))
    assert row["memory_norm"] > 0


def test_a_reset_heals_a_row_of_the_memory(plain):
    """Zeros are selected, not multiplied in."""
    _, rows = plain.run(spoil(plain.fresh(), "memory"), random_batch(0))
    assert rows[0]["memory_finite"] and np.isfinite(rows[0]["loss"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_in_any_leaf(bad):
    """Also where another leaf has its shape; integers are none."""
    shapes = {"a": (2, 3), "b": (2, 3), "c": (3,), "d": (2, 3), "e": ()}
    good = {name: np.ones(shape) for name, shape in shapes.items()} | {"counter": np.zeros((), int)}
    assert all_finite(good) and all_finite({})
    for name, shape in shapes.items():
        leaf = np.ones(shape)
        leaf[(-1,) * len(shape)] = bad
        assert not all_finite(good | {name: leaf})
