"""How far a loss reaches back through the memory: against a plain loop over segments.

In float64. The oracle knows neither scan nor rematerialisation: it differentiates one long chain
of segments, and detaches the memory where a group begins.
"""

import dataclasses
from functools import cache, partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.state import empty_long_term, reset
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation
from inf_former_jax.training.forward import CONTEXT, LOSS, Segments
from inf_former_jax.training.objective import SUMS, Objective, zero_sums
from inf_former_jax.training.schedules import Schedule, all_or_none, batch_gradient
from inf_former_jax.training.state import TrainState
from inf_former_jax.training.step import make_train_step
from tests.golden import relative_error

ROWS, SEGMENTS, LENGTH, VOCAB = 3, 5, 8, 12
KL_WEIGHT = 0.1
KEY = 7


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_batch(seed: int = 0, segments: int = SEGMENTS, loss=(1, 3, 4)) -> Batch:
    """Loss in some segments; row 1 begins anew at segment 3, row 2 goes on from before."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, segments, LENGTH)
    weights = rng.random(shape)
    weights[:, [w for w in range(segments) if w not in loss]] = 0
    starts = np.zeros((ROWS, segments), bool)
    starts[:2, 0] = starts[1, 3] = True
    tokens, targets = rng.integers(0, VOCAB, (2, *shape)).astype(np.int32)
    return Batch(tokens, targets, weights, starts)


@cache
def params_of(cfg):
    """Random parameters of float64, for the members that differ in `memory_gradient` alike."""
    init = Decoder(cfg).init
    of = (jax.random.key(0), jnp.zeros((ROWS, LENGTH), int), init_memory(cfg, ROWS))
    shapes = jax.eval_shape(lambda *of: init(*of, operators=operators(cfg)), *of)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, shapes)


@cache
def carried(cfg):
    """A memory as three segments of a batch before could have left it."""
    rng = np.random.default_rng(2)
    empty = init_memory(cfg, ROWS, jnp.float64)

    def filled(leaf):
        whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.full_like(leaf, 2) if whole else rng.random(leaf.shape)

    return jax.tree.map(filled, empty)._replace(seen=jnp.full_like(empty.seen, 3 * LENGTH))


@cache
def step_of(cfg, empty):
    """The compiled update: plain descent at rate 1, so old - new parameters is the gradient."""
    objective = Objective(KL_WEIGHT, empty_memory=empty)
    return make_train_step(cfg, optax.sgd(1.0), objective)


def train(cfg, batch, reach, empty=False):
    """(gradient, sums) of one update whose gradient goes `reach` segments back."""
    params, tx = params_of(cfg), optax.sgd(1.0)
    given = jax.tree.map(jnp.asarray, params)
    memory = jax.tree.map(jnp.copy, carried(cfg))
    number, key = jnp.zeros((), jnp.int32), jax.random.key(KEY)
    state = TrainState(number, given, tx.init(params), memory, key)
    train_step = step_of(dataclasses.replace(cfg, memory_gradient=reach), empty)
    new, row = train_step(state, batch, operators(cfg))
    grads = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, new.params)
    return grads, jax.device_get({name: row[name] for name in SUMS})


# The oracle


def borders(segments: int, reach: int) -> set[int]:
    """First segments of the groups: counted from the end, each has reach + 1."""
    return set(range(segments - reach - 1, 0, -reach - 1)) | {0}


@cache
def model_of(cfg):
    """One segment of the decoder whose memory is differentiable as it stands."""
    cfg = dataclasses.replace(cfg, memory_gradient=1)

    @jax.jit
    def model(params, tokens, memory, ops, key, kl_where):
        options = {"operators": ops, "kl_where": kl_where, "rngs": {"locations": key}}
        return Decoder(cfg).apply({"params": params}, tokens, memory, **options)

    return model


def objective_of(params, cfg, batch, reach, empty=False):
    """The objective of the whole batch as one chain that is cut where groups begin."""
    model, ops, memory = model_of(cfg), operators(cfg), carried(cfg)
    segments = batch.tokens.shape[1]
    cut = borders(segments, reach)
    loss = kl = count = 0.0
    for w in range(segments):
        memory = jax.lax.stop_gradient(memory) if w in cut else memory
        memory = reset(memory, batch.resets[:, w])
        memory = empty_long_term(cfg, memory) if empty else memory
        weights = batch.weights[:, w]
        scored = np.repeat((weights > 0).any(axis=1)[:, None], LENGTH, axis=1)
        out = model(params, batch.tokens[:, w], memory, ops, jax.random.key(0), scored)
        log_probs = jax.nn.log_softmax(out.logits)
        chosen = jnp.take_along_axis(log_probs, batch.targets[:, w, :, None], axis=-1)[..., 0]
        loss -= (weights * chosen).sum()
        kl, count = kl + out.aux["kl"][0], count + out.aux["kl"][1]
        memory = constant_salience(out.memory)
    heads_and_queries = jnp.maximum(count, 1)
    value = loss / batch.weights.sum() + KL_WEIGHT * kl / heads_and_queries
    return value, (loss, kl, count)


def constant_salience(memory):
    """Sticky locations steer, they are not trained."""

    def of(layer):
        salience = jax.lax.stop_gradient(layer.long_term.salience)
        return layer._replace(long_term=layer.long_term._replace(salience=salience))

    return memory._replace(layers=tuple(of(layer) for layer in memory.layers))


def check_gradient(actual, expected, rtol=1e-10):
    """Each leaf within rtol of its norm; what is old - new parameters is no better than 1e-16."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        found = dict(jax.tree_util.tree_leaves_with_path(actual))[path]
        error = np.linalg.norm(found - leaf)
        assert error <= rtol * np.linalg.norm(leaf) + 1e-13, f"{jax.tree_util.keystr(path)} {error}"


def kind(cfg, **changes):
    """A member of the family; changes of the long-term memory are named `long_term_…`."""
    of_memory = {k[10:]: changes.pop(k) for k in list(changes) if k.startswith("long_term_")}
    memory = dataclasses.replace(cfg.long_term, **of_memory)
    return dataclasses.replace(cfg, long_term=memory, **changes)


POWER = {"long_term_contraction": "power", "long_term_horizon": 4}
#: A memory of cells, read by content; what it does not know stands at its default.
CELLS = {
    "long_term_functions": "rectangular",
    "long_term_fit": "intervals",
    "long_term_widths": LongTermConfig.widths,
    "long_term_num_samples": LongTermConfig.num_samples,
    "long_term_contraction": "power",
    "long_term_density": "gibbs",
}
LEARNED = {"long_term_turn_queries": True, "long_term_age_bias": "cells"}
CASES = {  # the ∞-former's changes, k, segments; with 5: remainder 1, remainder 2, none
    "one layer": ({}, 1, 4),
    "uniform": ({"num_layers": 2}, 1, 5),
    "sticky, pre-norm": ({"norm": "pre", "long_term_sticky": True, "mem_len": 0}, 2, 5),
    "emptied": ({}, 2, 5),
    "power, all": (POWER | {"mem_len": 0}, 4, 5),
    "intervals": (
        {"long_term_fit": "intervals", "long_term_num_samples": 512, "norm": "pre"},
        2,
        4,
    ),
    "cells, by content, all": (CELLS | LEARNED | {"mem_len": 0}, 4, 5),
    "joined, sticky": (
        CELLS | {"long_term_joined": True, "long_term_sticky": True, "long_term_num_samples": 5},
        2,
        5,
    ),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[] if name == "one layer" else pytest.mark.slow) for name in CASES],
)
def test_gradient_is_that_of_the_cut_chain(tiny_model, case):
    """Loss at the end of groups and, of five segments, inside one; a reset inside a group."""
    changes, reach, segments = CASES[case]
    cfg, batch = kind(tiny_model, **{"num_layers": 1, **changes}), random_batch(segments=segments)
    take = jax.value_and_grad(objective_of, has_aux=True)
    empty = case == "emptied"  # then the gradient goes through the short-term memory only
    (_, sums), expected = take(params_of(cfg), cfg, batch, reach, empty)
    grads, found = train(cfg, batch, reach, empty)
    np.testing.assert_allclose([found[n] for n in ("loss", "kl", "kl_count")], sums, rtol=1e-12)
    assert sums[2] > 0
    check_gradient(grads, expected)
    if reach >= segments - 1 and not cfg.long_term.sticky:
        _check_differences(cfg, batch, expected)


def _check_differences(cfg, batch, grads, size=1e-5):
    """Nothing is detached in the whole chain: its gradient is the derivative, by differences."""
    params, rng = params_of(cfg), np.random.default_rng(3)
    way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    values = [
        objective_of(jax.tree.map(lambda p, v: p + h * v, params, way), cfg, batch, 9)[0]  # noqa: B023
        for h in (-size, size)
    ]
    along = sum(np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (grads, way)), strict=True))
    assert (values[1] - values[0]) / (2 * size) == pytest.approx(float(along), rel=1e-6)


@pytest.mark.slow
def test_reach(tiny_model):
    """Late loss trains the embedding of a token of an early segment iff their group is the same.

    And the forward pass is the same to the bit: dropout and drawn locations know no groups.
    """
    drawn = {"long_term_sticky": True, "long_term_locations": "draw"}
    cfg = kind(tiny_model, num_layers=1, dropout=0.2, **drawn)
    batch = random_batch(loss=(4,))
    tokens = np.where(batch.tokens >= 10, 3, batch.tokens)
    tokens[:, 1, 2], tokens[:, 2, 2] = 10, 11
    batch = batch._replace(tokens=tokens, resets=batch.resets & (np.arange(SEGMENTS) == 0))
    (none, sums), (two, again) = (train(cfg, batch, reach) for reach in (0, 2))
    assert sums == again and sums["kl_count"] > 0
    trained = [np.abs(grads["embed"]["embedding"]).max(axis=1) > 0 for grads in (none, two)]
    assert not trained[0][10] and not trained[0][11]
    assert not trained[1][10] and trained[1][11]
    gates = [grads["block_0"]["long_term"]["gate"]["kernel"] for grads in (none, two)]
    assert relative_error(*gates) > 1e-3


def test_evaluation_knows_no_gradient(tiny_model):
    """Sums and memory of an evaluation are the same to the bit, whatever `memory_gradient` is."""
    cfg, batch = kind(tiny_model, num_layers=1), random_batch()
    params, key = params_of(cfg), jax.random.key(0)
    plain, reaching = (
        evaluation.make_eval_step(dataclasses.replace(cfg, memory_gradient=k))(
            params, carried(cfg), batch, operators(cfg), key
        )
        for k in (0, 3)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, reaching)
    assert plain[0]["loss"] > 0


# Groups of any size, by a recurrence that takes no time to compile


def _recurrence(params, memory, segment):
    """(memory, sums) after a segment; memory and loss are nonlinear in everything."""
    drive, weight = segment.batch
    memory = jnp.tanh(params["keep"] * memory + params["write"] * drive)
    loss = jnp.where(weight > 0, weight * (memory**2).sum(), 0.0)
    return memory, zero_sums() | {"loss": loss}


def _run(params, memory, group):
    memory, sums = jax.lax.scan(partial(_recurrence, params), memory, group)
    return jax.tree.map(jnp.sum, sums), memory


@pytest.mark.parametrize("count, loss", [(5, (1, 4)), (5, (0,)), (4, (1, 2, 3)), (4, ())])
@pytest.mark.parametrize(
    "size",
    [pytest.param(n, marks=[] if n in (2, 5) else pytest.mark.slow) for n in (1, 2, 3, 5, 9)],
)
def test_groups(count, loss, size):
    """The same as the chain with the memory detached every `size` segments from the end."""
    rng = np.random.default_rng(0)
    weights = rng.random(count) * np.isin(np.arange(count), loss)
    keep, write, start = (jnp.asarray(rng.normal(size=n)) for n in ((), 3, 3))
    params, drives = {"keep": keep, "write": write}, jnp.asarray(rng.normal(size=(count, 3)))
    kinds = jnp.where(weights > 0, LOSS, CONTEXT)
    segments = Segments((drives, jnp.asarray(weights)), jnp.arange(count), kinds)

    def chain(params):
        memory, total = start, 0.0
        for w in range(count):
            if w in borders(count, size - 1):
                memory = jax.lax.stop_gradient(memory)
            segment = jax.tree.map(itemgetter(w), segments)
            memory, sums = _recurrence(params, memory, segment)
            total += sums["loss"]
        return total, memory

    (total, end), expected = jax.value_and_grad(chain, has_aux=True)(params)
    schedule = Schedule(size, _run, _run, lambda memory, _: memory, all_or_none)
    grads, sums, memory = batch_gradient(
        schedule, lambda sums: sums["loss"], params, start, segments
    )
    np.testing.assert_allclose(memory, end, rtol=1e-12)
    np.testing.assert_allclose(sums["loss"], total, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), grads, expected)


# What stays apart


def test_reconstruction_alone_trains_the_compression(tiny_model):
    """With a memory that is differentiated, too: neither loss reaches what is the other's."""
    compressed = {"long_term": None, "compressed": CompressedConfig(rate=4, length=4)}
    cfg = dataclasses.replace(tiny_model, num_layers=1, norm="pre", memory_gradient=2, **compressed)
    tokens, start = jnp.asarray(random_batch().tokens[:, 0]), carried(cfg)

    def losses(params, fifo):
        layers = (start.layers[0]._replace(fifo=fifo),)
        out = Decoder(cfg).apply({"params": params}, tokens, start._replace(layers=layers))
        after = out.memory.layers[0].compressed
        return (out.logits**2).sum() + (after**2).sum(), out.aux["reconstruction"][0]

    @jax.jit
    def pulled(params, fifo):
        _, pull = jax.vjp(losses, params, fifo)
        return pull((1.0, 0.0)), pull((0.0, 1.0))

    (task, task_fifo), (own, own_fifo) = pulled(params_of(cfg), start.layers[0].fifo)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(task["block_0"].pop("compression")))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(own["block_0"].pop("compression")))
    assert (own_fifo == 0).all() and all((leaf == 0).all() for leaf in jax.tree.leaves(own))
    # Of the two segments of the FIFO the older one is compressed, the newer one attended to.
    assert (task_fifo[:, :LENGTH] == 0).all() and (task_fifo[:, LENGTH:] != 0).any()


@pytest.mark.parametrize("value", [-1, 1.5])
def test_refused(tiny_model, value):
    """Whole numbers of segments only."""
    message = rf"^memory_gradient: found {value}, accepted: a whole number ≥ 0$"
    cfg = dataclasses.replace(tiny_model)
    object.__setattr__(cfg, "memory_gradient", value)  # past the check of types, which tests have
    with pytest.raises(ValueError, match=message):
        cfg.__post_init__()
