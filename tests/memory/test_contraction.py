"""Power contraction: operators by a row's own number of writes, against the oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from inf_former_jax.memory import long_term
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.write_operators import write_operator
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
    memory = long_term.LongTermMemory(
        rng.normal(size=(4, 8, E)).astype(np.float32), salience(0)[[0, 1, 2, 0]],
        np.array(writes, np.int32),
    )  # fmt: skip
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


def test_uniform_history_gives_every_segment_the_same_width():
    """p = 1: after k further writes each of the k + 1 segments has 1/(k + 1) of the signal."""
    cfg = LongTermConfig(contraction="power")
    left = 1.0  # width of the first segment after all writes so far
    for k in range(1, 65):
        left *= cfg.tau_of(k)
        assert left == pytest.approx(1 / (k + 1)) == pytest.approx(1 - cfg.tau_of(k))
    assert cfg.tau_of(1000) == cfg.tau_of(64) == 64 / 65


@pytest.mark.parametrize("cfg", [UNIFORM, STICKY], ids=["uniform", "sticky"])
def test_tables_hold_the_operators_of_every_count_and_nothing_unused(cfg):
    """In float64 they are `write_operator`'s; a uniform memory needs no G_past, a sticky no A."""
    ops = long_term.operators(cfg, L, np.float64)
    assert ops.new.shape == (4, L, 8) and (ops.decay is None) == cfg.sticky != (ops.past is None)
    for k in range(5):
        g_past, g_new = write_operator(cfg, L, k)
        np.testing.assert_array_equal(ops.new[k - 1] if k else ops.first[0], g_new)
        expected = oracle.write_operator(oracle_at(k), L)
        if k:
            assert relative_error(g_past, expected[:M]) < 1e-10
            assert relative_error(g_new, expected[M:]) < 1e-10
        if k and cfg.sticky:
            np.testing.assert_array_equal(ops.past[k - 1], g_past)


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


@pytest.mark.parametrize(
    "change, name",
    [({"contraction": "power", "power": 0.0}, "power"),
     ({"contraction": "power", "power": -1.0}, "power"),
     ({"contraction": "power", "horizon": 0}, "horizon"),
     ({"contraction": "power", "tau": 0.9}, "tau"),
     ({"contraction": "power", "tau": 0.9, "power": 2.0}, "tau"),
     ({"contraction": "power", "power": 1e-17}, "power"),
     ({"contraction": "power", "power": 1e4}, "power"),
     ({"power": 2.0}, "power"), ({"horizon": 32}, "horizon"),
     ({"max_operator_mib": 0}, "max_operator_mib")],
)  # fmt: skip
def test_impossible_contractions_are_refused(change, name):
    """One line: option, found, accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: ") as caught:
        LongTermConfig(**change)
    assert "\n" not in str(caught.value)


def test_a_table_above_its_bound_is_refused_with_the_numbers():
    """Before anything of it is built; the default fits the paper's sizes at horizon 64."""
    paper = LongTermConfig(contraction="power", horizon=128)
    with pytest.raises(ValueError, match=r"max_operator_mib: found 256 .* take up to 386\.0 MiB"):
        long_term.operators(paper, 1024)
    small = dataclasses.replace(UNIFORM, max_operator_mib=1, horizon=4000)
    with pytest.raises(ValueError, match=r"max_operator_mib: found 1 .*4000 contractions"):
        long_term.operators(small, L)


def test_locations_of_a_memory_without_their_operators_are_refused():
    """A uniform power contraction keeps A alone."""
    memory = long_term.init(UNIFORM, B, E)
    with pytest.raises(ValueError, match=r"locations: found them with power contraction"):
        long_term.write(UNIFORM, memory, vectors(0), locations=np.full((B, M), 0.5, np.float32))
