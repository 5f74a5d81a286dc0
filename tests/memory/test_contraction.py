"""Power contraction: operators by a row's own number of writes, against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from inf_former_jax.memory import long_term
from inf_former_jax.memory.long_term import LongTermConfig
from tests import oracle
from tests.golden import relative_error

B, L, E, M = 3, 8, 4, 10
SIZES = {"num_basis": 8, "widths": (0.05, 0.2), "ridge": 0.5, "num_samples": M, "bins": 16}
POWER = {"contraction": "power", "power": 1.5, "horizon": 4}
UNIFORM = LongTermConfig(**SIZES, **POWER)
STICKY = LongTermConfig(**SIZES, **POWER, sticky=True)
WRITE = jax.jit(long_term.write, static_argnums=0)


def oracle_at(k):
    """The oracle's settings at a row's k-th further write: horizon 4, p = 1.5."""
    k = min(max(k, 1), 4)
    return oracle.MemorySettings(**SIZES, tau=(k / (k + 1)) ** 1.5)


def vectors(seed):
    return np.random.default_rng(seed).normal(size=(B, L, E)).astype(np.float32)


def salience(seed):
    mass = np.random.default_rng(seed).uniform(size=(B, 16)).astype(np.float32) ** 4
    return mass / mass.sum(-1, keepdims=True)


@pytest.mark.parametrize("cfg", [UNIFORM, STICKY], ids=["uniform", "sticky"])
@pytest.mark.parametrize("reset_at", [None, 3], ids=["one count", "counts of their own"])
def test_writes_are_the_oracles_with_the_rows_own_count(cfg, reset_at):
    """Beyond the horizon too; row 1 begins again before write 3, so that counts differ."""
    ops = long_term.operators(cfg, L)
    memory = long_term.init(cfg, B, E)
    rows = [oracle.empty(oracle_at(0)) for _ in range(B)]
    for s in range(7):
        reset = np.array([False, s == reset_at, False])
        memory = long_term.reset(memory, reset)._replace(salience=salience(s))
        memory = WRITE(cfg, memory, vectors(s), operators=ops)
        for b in range(B):
            old = oracle.empty(oracle_at(0)) if reset[b] else rows[b]
            u = oracle.quantile_locations(salience(s)[b].astype(float), M) if cfg.sticky else None
            rows[b] = oracle.write(oracle_at(old.writes), old, vectors(s)[b].astype(float), u)
            assert relative_error(memory.coeffs[b], rows[b].coeffs) < 2e-4
    np.testing.assert_array_equal(memory.writes, [7, 7 if reset_at is None else 4, 7])


@pytest.mark.parametrize("writes", [[3, 3, 3, 3], [0, 1, 9, 2]], ids=["one count", "own counts"])
def test_a_sharded_batch_is_written_as_a_whole_one(writes):
    """Rows on four devices, operators on all: the same memory, wherever the counts differ."""
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    rng = np.random.default_rng(0)
    coeffs, histograms = rng.normal(size=(4, 8, E)).astype(np.float32), salience(0)[[0, 1, 2, 0]]
    memory = long_term.LongTermMemory(coeffs, histograms, np.array(writes, np.int32))
    x = rng.normal(size=(4, L, E)).astype(np.float32)
    placed, spread = jax.device_put((memory, x), NamedSharding(mesh, P("data")))
    for cfg in (UNIFORM, STICKY):
        ops = long_term.operators(cfg, L)
        everywhere = jax.device_put(ops, NamedSharding(mesh, P()))
        whole = WRITE(cfg, memory, x, operators=ops)
        parts = WRITE(cfg, placed, spread, operators=everywhere)
        assert len(parts.coeffs.sharding.device_set) == 4
        np.testing.assert_allclose(parts.coeffs, whole.coeffs, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(parts.writes, whole.writes)


def test_no_gradient_goes_to_the_locations():
    """They steer what is read again; nobody differentiates the salience by accident."""
    memory = long_term.init(STICKY, B, E)._replace(writes=jnp.full(B, 2))
    memory = memory._replace(coeffs=jnp.ones_like(memory.coeffs))
    ops = long_term.operators(STICKY, L)

    def total(mass):
        given = memory._replace(salience=mass)
        return long_term.write(STICKY, given, vectors(0), operators=ops, detach=False).coeffs.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.asarray(salience(0))), 0.0)


def test_operators_of_another_configuration_are_refused():
    """A uniform memory needs A, a sticky one G_past."""
    memory = long_term.init(UNIFORM, B, E)
    with pytest.raises(ValueError, match="operators: found those of another configuration"):
        long_term.write(UNIFORM, memory, vectors(0), operators=long_term.operators(STICKY, L))


def test_the_gradient_goes_through_the_stored_signal_on_demand():
    """detach=False: d/dC of the sum is 1ᵀA, by row; the default keeps it at zero."""
    memory = long_term.init(UNIFORM, B, E)._replace(writes=jnp.array([0, 2, 9]))
    memory = memory._replace(coeffs=jnp.ones_like(memory.coeffs))
    ops = long_term.operators(UNIFORM, L)

    def total(coeffs, detach):
        written = long_term.write(
            UNIFORM, memory._replace(coeffs=coeffs), vectors(0), operators=ops, detach=detach
        )
        return written.coeffs.sum()

    grad = jax.jit(jax.grad(total), static_argnums=1)
    np.testing.assert_array_equal(grad(memory.coeffs, True), 0.0)
    through = np.asarray(grad(memory.coeffs, False))
    for b, column in enumerate([np.zeros(8), ops.decay[1].sum(1), ops.decay[3].sum(1)]):
        np.testing.assert_allclose(through[b], np.tile(column[:, None], E), rtol=1e-4, atol=1e-5)


def test_locations_of_a_memory_without_their_operators_are_refused():
    """A uniform power contraction keeps A alone."""
    memory = long_term.init(UNIFORM, B, E)
    with pytest.raises(ValueError, match=r"locations: found them with power contraction"):
        long_term.write(UNIFORM, memory, vectors(0), locations=np.full((B, M), 0.5, np.float32))
