"""What a memory retains: against the oracle's full linear map, and the figures of SPEC."""

import numpy as np
import pytest

from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.retained import retention
from inf_former_jax.models import presets
from tests import oracle

L, M, W, J = 8, 12, 6, 4
SIZES = {"num_basis": 8, "widths": (0.05, 0.2), "ridge": 0.5, "num_samples": M, "bins": 16}
POWER = {"contraction": "power", "power": 1.5, "horizon": 3}
SALIENCE = np.random.default_rng(5).uniform(size=16) ** 3
FIXED = LongTermConfig(**SIZES)
CASES = {
    "fixed": (FIXED, None),
    "beyond the horizon": (LongTermConfig(**SIZES, **POWER), None),
    "no padding": (LongTermConfig(**SIZES, padding=False), None),
    "quantile": (LongTermConfig(**SIZES, **POWER, sticky=True), SALIENCE),
    "draw": (LongTermConfig(**SIZES, sticky=True, locations="draw"), SALIENCE),
}


def linear_map(cfg, salience):
    """Coefficients [N, W·L] of every unit vector of W segments, through the oracle's writes."""
    rng = np.random.default_rng(7)
    memory = oracle.empty(oracle.MemorySettings(**SIZES, tau=0.5))
    for k in range(W):
        settings = oracle.MemorySettings(**SIZES, tau=cfg.tau_of(max(k, 1)), padding=cfg.padding)
        u = None
        if k and salience is not None:
            draw = cfg.locations == "draw"
            u = (
                oracle.drawn_locations(salience, rng.uniform(size=M))
                if draw
                else oracle.quantile_locations(salience, M)
            )
        memory = oracle.write(settings, memory, np.eye(W * L)[k * L : (k + 1) * L], u)
    return memory.coeffs


def moments(cfg, salience):
    """S with its ε on the diagonal, and c [N, W, J], by age and block, from the full map."""
    full = linear_map(cfg, salience)
    second = full @ full.T
    second += 1e-7 * np.trace(second) / len(second) * np.eye(len(second))
    by_block = full.reshape(len(full), W, J, L // J)
    return second, by_block.mean(-1)[:, ::-1]


@pytest.mark.parametrize("name", CASES)
def test_both_r2_are_those_of_the_full_linear_map(name):
    """R² by an explicit inverse, and by evaluating the density that was found with the oracle."""
    cfg, salience = CASES[name]
    second, first = moments(cfg, salience)
    found = retention(cfg, W, length=L, detail=2, salience=salience, seed=7)
    expected = np.einsum("nwj,nm,mwj->wj", first, np.linalg.inv(second), first) * L / J
    np.testing.assert_allclose(found.linear, expected, rtol=1e-6, atol=1e-9)
    basis = oracle.gaussian_basis(cfg.num_basis, cfg.widths)
    w = oracle.expectation(basis, found.mean, found.var)
    explained = np.einsum("wjn,nwj->wj", w, first) ** 2
    power = np.einsum("wjn,nm,wjm->wj", w, second, w)
    np.testing.assert_allclose(found.density, explained / power * L / J, rtol=1e-6)


@pytest.mark.parametrize("name", ["fixed", "quantile"])
def test_no_density_of_a_dense_grid_is_better(name):
    """2,001 μ × 300 σ, more than the function tries; and the maximum is no worse than .001."""
    cfg, salience = CASES[name]
    second, first = moments(cfg, salience)
    found = retention(cfg, W, length=L, detail=2, salience=salience)
    basis, best = oracle.gaussian_basis(cfg.num_basis, cfg.widths), np.zeros((W, J))
    for scale in np.geomspace(1e-3, 1.0, 300):
        w = oracle.expectation(basis, np.linspace(0, 1, 2001), np.full(2001, scale**2))
        power = ((w @ second) * w).sum(1)
        explained = np.einsum("gn,nwj->gwj", w, first) ** 2
        best = np.maximum(best, (explained / power[:, None, None]).max(0) * L / J)
    assert (found.density >= best - 1e-4).all()
    assert (found.density <= best + 1e-3).all()
    assert ((found.mean >= 0) & (found.mean <= 1) & (found.var >= cfg.min_var)).all()


@pytest.mark.parametrize("contraction", ["fixed", "power"])
def test_a_density_never_explains_more_than_the_best_linear_read(contraction):
    """τ = .75 loses what was written long ago, k/(k+1) does not; both hold the newest segment."""
    sizes = {"num_basis": 64, "widths": (0.03,), "num_samples": 128}
    found = retention(LongTermConfig(**sizes, contraction=contraction), 20, length=32)
    assert found.linear.shape == (20, 1)
    assert (found.density <= found.linear + 1e-9).all() and (found.linear <= 1 + 1e-6).all()
    assert found.linear[0, 0] > 0.95 and found.density[0, 0] > 0.9
    old = found.density[16:, 0]  # .25 τ¹⁶ = .0025 of the signal, a tenth of a width, or 1/20
    assert (old < 0.05).all() if contraction == "fixed" else (old > 0.7).all()


def test_the_smallest_variance_bounds_the_densities():
    """With σ_min of a quarter of the signal no density singles out one block of four."""
    narrow = retention(FIXED, 1, length=L, detail=2)
    wide = retention(LongTermConfig(**SIZES, min_var=0.0625), 1, length=L, detail=2)
    assert (wide.var >= 0.0625).all() and narrow.var.min() < 0.02
    assert (wide.density < narrow.density - 0.01).all()
    np.testing.assert_allclose(wide.linear, narrow.linear)


def test_salience_steers_a_sticky_memory_only():
    """None and zeros are the uniform grid; a flat one has quantiles (m-½)/M, half a step off."""
    sticky = LongTermConfig(**SIZES, sticky=True)
    uniform = retention(FIXED, W, length=L)
    for salience in (None, np.zeros(16)):
        same = retention(sticky, W, length=L, salience=salience)
        np.testing.assert_array_equal(same, uniform)
    flat = retention(sticky, W, length=L, salience=np.ones(16))
    assert np.abs(flat.linear - uniform.linear).max() > 1e-3
    end = np.eye(16)[15]  # all locations in the last bin: only the newest segments are copied
    focused = retention(sticky, W, length=L, salience=end)
    assert focused.linear[0] == pytest.approx(uniform.linear[0], abs=0.1)
    assert focused.linear[3, 0] < 0.2 * uniform.linear[3, 0]


@pytest.mark.parametrize("salience", [None, np.ones(16)])
def test_intervals_of_a_flat_salience_are_all_of_the_past(salience):
    """As many samples as cells are read in the middles of cells."""
    cells = {"functions": "rectangular", "fit": "intervals", "num_basis": 8, "bins": 16}
    uniform = retention(LongTermConfig(**cells), W, length=L)
    sticky = LongTermConfig(**cells, sticky=True, num_samples=8)
    same = retention(sticky, W, length=L, salience=salience)
    np.testing.assert_allclose(same.linear, uniform.linear, rtol=1e-9)


def test_draws_are_fresh_and_of_the_seed():
    """The same seed gives the same figures, another one others."""
    cfg, salience = CASES["draw"]
    first, again, other = (
        retention(cfg, W, length=L, salience=salience, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.linear - other.linear).max() > 1e-3


def test_progress_counts_the_writes():
    counts = []
    retention(FIXED, 3, length=L, progress=counts.append)
    assert counts == [1, 2, 3]


@pytest.mark.parametrize(
    "change, name",
    [
        ({"writes": 0}, "writes"),
        ({"length": 0}, "length"),
        ({"detail": -1}, "detail"),
        ({"length": 6, "detail": 2}, "length"),
        ({"points": 1}, "points"),
        ({"salience": SALIENCE}, "salience"),
        ({"cfg": CASES["draw"][0], "salience": SALIENCE[:8]}, "salience"),
        ({"cfg": CASES["draw"][0], "salience": -SALIENCE}, "salience"),
        ({"cfg": CASES["draw"][0], "salience": SALIENCE * np.nan}, "salience"),
    ],
)
def test_what_cannot_be_is_refused(change, name):
    """One line: option, found, accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: ") as caught:
        retention(**{"cfg": FIXED, "writes": 2, "length": L, **change})
    assert "\n" not in str(caught.value)


AGES = [0, 3, 7, 11, 15, 23, 31, 47, 63]


@pytest.mark.slow
def test_retention_of_the_published_sizes():
    """N = M = 512, L = 128, 64 writes, k/(k+1): found independently, by a coarser search."""
    found = retention(LongTermConfig(contraction="power"), 64)
    linear = [1.00, 0.74, 0.73, 0.76, 0.79, 0.81, 0.84, 0.89, 0.78]
    np.testing.assert_allclose(found.linear[AGES, 0], linear, atol=0.01)
    coarse = np.array([0.75, 0.57, 0.60, 0.62, 0.63, 0.72, 0.77, 0.83, 0.72])
    assert (found.density[AGES, 0] >= coarse - 0.01).all()
    assert (found.density <= found.linear).all()


@pytest.mark.slow
def test_the_lasting_presets_retain_what_they_say():
    """64 segments: the worst density of each, and more on average than τ = .75 and τ = .9."""
    lasting, small = (
        retention(preset().long_term, 64).density[:, 0]
        for preset in (presets.infinity_former_lasting, presets.infinity_former_small)
    )
    fixed = [retention(LongTermConfig(tau=tau), 64).density[:, 0] for tau in (0.75, 0.9)]
    assert lasting.min() > 0.8 and small.min() > 0.7
    assert min(lasting.mean(), small.mean()) > 0.3 + max(of.mean() for of in fixed)
    assert (fixed[0][20:] < 0.05).all() and fixed[0][14] > 0.3
