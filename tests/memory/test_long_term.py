"""The long-term memory: writes against the oracle row by row, and its invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.density import GaussianDensity, uniform_locations
from inf_former_jax.memory.long_term import LongTermConfig
from tests import oracle
from tests.golden import relative_error

B, L, E = 3, 8, 4
SIZES = {"num_basis": 8, "widths": (0.05, 0.2), "ridge": 0.5, "tau": 0.6, "num_samples": 10}
UNIFORM = LongTermConfig(**SIZES, bins=16)
STICKY = LongTermConfig(**SIZES, bins=16, sticky=True)
ORACLE = oracle.MemorySettings(**SIZES, bins=16)
WRITE = jax.jit(long_term.write, static_argnums=0)


def vectors(seed, rows=B, length=L):
    return np.random.default_rng(seed).normal(size=(rows, length, E)).astype(np.float32)


def filled(cfg, writes=2, rows=B):
    memory = long_term.init(cfg, rows, E)
    for seed in range(writes):
        memory = WRITE(cfg, memory, vectors(seed, rows), operators=long_term.operators(cfg, L))
    return memory


def salience(seed):
    mass = np.random.default_rng(seed).uniform(size=(B, 16)).astype(np.float32) ** 4
    return jnp.asarray(mass / mass.sum(-1, keepdims=True))


@pytest.mark.parametrize("cfg", [UNIFORM, STICKY], ids=["uniform", "sticky"])
def test_writes_are_the_oracles_row_by_row(cfg):
    """Four writes with a reset of row 1 before the third; sticky rows steered by salience."""
    memory = long_term.init(cfg, B, E)
    rows = [oracle.empty(ORACLE) for _ in range(B)]
    for s in range(4):
        reset = np.array([False, s == 2, False])
        memory = long_term.reset(memory, reset)._replace(salience=salience(s))
        memory = WRITE(cfg, memory, vectors(s), operators=long_term.operators(cfg, L))
        for b in range(B):
            old = oracle.empty(ORACLE) if reset[b] else rows[b]
            mass = np.asarray(salience(s)[b], float)
            u = oracle.quantile_locations(mass, 10) if cfg.sticky else None
            rows[b] = oracle.write(ORACLE, old, vectors(s)[b].astype(float), u)
            assert relative_error(memory.coeffs[b], rows[b].coeffs) < 2e-4
    np.testing.assert_array_equal(memory.writes, [4, 2, 4])


def test_the_uniform_write_is_linear():
    """A C + GᵀX (precomputed A) equals sampling at u_m = m/M and regressing again."""
    memory, x = filled(UNIFORM), vectors(9)
    grid = jnp.asarray(np.tile(uniform_locations(10), (B, 1)), jnp.float32)
    ops = long_term.operators(UNIFORM, L)
    by_operator = WRITE(UNIFORM, memory, x, operators=ops)
    by_samples = WRITE(UNIFORM, memory, x, operators=ops, locations=grid)
    assert relative_error(by_operator.coeffs, by_samples.coeffs) < 1e-5


@pytest.mark.parametrize("cfg", [UNIFORM, STICKY], ids=["uniform", "sticky"])
def test_a_reset_row_is_a_fresh_row(cfg):
    """To the bit, whatever was there before (even NaN); other rows keep their bits."""
    memory = filled(cfg)._replace(salience=salience(0))
    poisoned = memory._replace(coeffs=memory.coeffs.at[1].set(jnp.nan))
    reset = long_term.reset(poisoned, np.array([False, True, False]))
    ops = long_term.operators(cfg, L)
    fresh = WRITE(cfg, long_term.init(cfg, B, E), vectors(7), operators=ops)
    written = WRITE(cfg, reset, vectors(7), operators=ops)
    untouched = WRITE(cfg, memory, vectors(7), operators=ops)
    for a, b, c in zip(*map(jax.tree.leaves, (written, fresh, untouched)), strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        np.testing.assert_array_equal(a[0], c[0])


def test_rows_that_do_not_write_keep_their_bits():
    """`rows` selects; the others keep coefficients, salience and count."""
    memory = filled(UNIFORM)
    rows = np.array([True, False, True])
    written = WRITE(
        UNIFORM, memory, vectors(5), operators=long_term.operators(UNIFORM, L), rows=rows
    )
    np.testing.assert_array_equal(written.coeffs[1], memory.coeffs[1])
    np.testing.assert_array_equal(written.writes, [3, 2, 3])
    assert (np.asarray(written.coeffs[0]) != np.asarray(memory.coeffs[0])).any()


def test_gradient_reaches_this_write_only():
    """d/dX is G's; d/dC_old is exactly zero (paper: the stored memory is detached)."""
    ops = long_term.operators(UNIFORM, L)

    def total(coeffs, x):
        memory = filled_memory._replace(coeffs=coeffs)
        return long_term.write(UNIFORM, memory, x, operators=ops).coeffs.sum()

    filled_memory = filled(UNIFORM)
    past, new = jax.jit(jax.grad(total, argnums=(0, 1)))(filled_memory.coeffs, vectors(3))
    np.testing.assert_array_equal(past, np.zeros_like(past))
    expected = np.broadcast_to(ops.new[0].sum(1)[None, :, None], new.shape)
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)


def test_old_segments_fade_at_the_published_contraction():
    """SPEC §3: 5 % of a segment's signal is left after 10 further writes, .1 % after 20."""
    cfg = LongTermConfig()
    ops = long_term.operators(cfg, 128)
    t = np.linspace(0, 1, 512)
    memory = long_term.init(cfg, 1, 1)
    wave = np.sin(np.linspace(0, 4 * np.pi, 128, dtype=np.float32))[None, :, None]
    for x in (np.zeros_like(wave), wave):  # the first write is another fit, of all of [0, 1]
        memory = WRITE(cfg, memory, x, operators=ops)
    start, left = np.linalg.norm(long_term.signal(cfg, memory, t)), {}
    for k in range(1, 21):
        memory = WRITE(cfg, memory, np.zeros_like(wave), operators=ops)
        left[k] = np.linalg.norm(long_term.signal(cfg, memory, t)) / start
    assert left[1] > 0.5
    assert left[10] == pytest.approx(0.05, abs=0.01) and left[20] < 0.001


def test_signal_reads_what_was_written():
    """A smooth sequence comes back at its own times, with any shape of t."""
    cfg = LongTermConfig(num_basis=64, widths=(0.05,), ridge=1e-3, num_samples=64)
    times = (np.arange(64) + 0.5) / 64
    x = np.stack([np.sin(4 * times), np.cos(7 * times)], axis=-1)[None].astype(np.float32)
    memory = WRITE(cfg, long_term.init(cfg, 1, 2), x, operators=long_term.operators(cfg, 64))
    inner = long_term.signal(cfg, memory, times[16:48].reshape(4, 8))
    np.testing.assert_allclose(inner.reshape(1, 32, 2), x[:, 16:48], atol=0.02)


def test_remember_skips_empty_rows_and_padding():
    """An empty row keeps zero salience, though its meaningless densities have mass."""
    memory = filled(STICKY)
    memory = long_term.reset(memory, np.array([True, False, False]))
    mean = jnp.full((B, 2, 5), 0.55)
    p = GaussianDensity(mean, jnp.full((B, 2, 5), 1e-5))
    where = np.array([[True] * 5, [True] * 5, [False] * 5])
    stored = jax.jit(long_term.remember)(memory, p, where).salience
    np.testing.assert_allclose(stored.sum(-1), [0, 1, 0], atol=1e-6)
    assert stored[1].argmax() == 8  # .55 of 16 bins


def test_random_sticky_locations_need_a_key():
    """And with one they are reproducible."""
    cfg = LongTermConfig(**SIZES, bins=16, sticky=True, locations="draw")
    memory, ops = filled(UNIFORM)._replace(salience=salience(1)), long_term.operators(cfg, L)
    with pytest.raises(ValueError, match="key: found None"):
        long_term.write(cfg, memory, vectors(1), operators=ops)
    one, two, other = (
        WRITE(cfg, memory, vectors(1), operators=ops, key=jax.random.key(k)) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.coeffs, two.coeffs)
    assert (np.asarray(one.coeffs) != np.asarray(other.coeffs)).any()


def test_vectors_and_operators_must_fit_the_memory():
    """Wrong widths and operators of another length are refused before anything is computed."""
    memory = long_term.init(UNIFORM, B, E)
    with pytest.raises(ValueError, match="x: found"):
        long_term.write(UNIFORM, memory, np.zeros((B, L, E + 1), np.float32))
    with pytest.raises(ValueError, match="operators: found"):
        long_term.write(UNIFORM, memory, vectors(0), operators=long_term.operators(UNIFORM, L + 2))
