"""The memory's pure functions against the published arrays, in float64 and float32."""

from functools import partial

import jax
import numpy as np
import pytest

from inf_former_jax.memory import long_term, regression
from inf_former_jax.memory.basis import GaussianBasis, evaluate, expectation
from inf_former_jax.memory.density import LOCATED, GaussianDensity, bin_mass, drawn_locations, kl
from inf_former_jax.memory.operator_tables import dense
from tests import golden
from tests.golden import relative_error

pytestmark = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["x64", "f32"])

# Largest relative error: (float64, float32).
ONE_STEP = (1e-8, 1e-4)
SEVERAL_STEPS = (1e-8, 2e-3)
GRADIENT = (1e-8, 2e-3)
LARGE = (1e-7, 1e-4)
LARGE_SEVERAL_STEPS = (1e-7, 2e-3)


def check(actual, expected, tolerances):
    """Relative error within the tolerance of the result's own precision."""
    assert actual.dtype in (np.float64, np.float32)
    tolerance = tolerances[0 if actual.dtype == np.float64 else 1]
    assert relative_error(actual, expected) <= tolerance


def config(arrays, **changes) -> long_term.LongTermConfig:
    """The memory of a golden file."""
    fields = {
        "num_basis": int(arrays["num_basis"]),
        "widths": tuple(map(float, arrays["sigmas"])),
        "ridge": float(arrays["ridge"]),
        "tau": float(arrays.get("tau", 0.75)),
        "num_samples": int(arrays.get("nb_samples", 8)),
    }
    return long_term.LongTermConfig(**(fields | changes))


def channels_last(x, dtype):
    """[B, E, L] of the golden files -> [B, L, E]."""
    return np.swapaxes(x, 1, 2).astype(dtype)


def jitted_write(cfg, length):
    """`long_term.write` as one program with its operators as an argument."""
    operators = long_term.operators(cfg, length)

    @golden.jit
    def program(operators, memory, x, locations=None):
        return long_term.write(cfg, memory, x, operators=operators, locations=locations)

    return partial(program, operators)


def holding(cfg, coeffs, dtype) -> long_term.LongTermMemory:
    """A memory that has been written to once, with given coefficients [B, N, E]."""
    memory = long_term.init(cfg, coeffs.shape[0], coeffs.shape[2], dtype)
    return memory._replace(coeffs=coeffs.astype(dtype), writes=memory.writes + 1)


def test_basis(dtype):
    arrays = golden.load("a_basis")
    basis = GaussianBasis(arrays["gauss_mu"], arrays["gauss_sigma"])
    t, mean, var = (arrays[k][:, 0].astype(dtype) for k in ("t", "query_mu", "query_sigma_sq"))
    with golden.precision(dtype):
        values = golden.jit(partial(evaluate, basis))(t)
        expectations = golden.jit(partial(expectation, basis))(mean, var)
    check(values, arrays["gauss_evaluate"], ONE_STEP)
    check(expectations, arrays["gauss_integrate_psi_gaussian"], ONE_STEP)


def gaussian_basis_of(arrays, name):
    """psi1 alone, or psi1 then psi2."""
    parts = ["psi1", "psi2"] if name.endswith("gauss2") else ["psi1"]
    loc, scale = (np.concatenate([arrays[f"{p}_{k}"] for p in parts]) for k in ("mu", "sigma"))
    return GaussianBasis(loc, scale)


def sines_then_cosines(arrays, density):
    cosine, sine = density.waves(arrays["psi3_sine_omega"])
    return jax.numpy.concatenate([sine, cosine], axis=-1)


@pytest.mark.parametrize(
    "name",
    ["softmax_gauss", "softmax_gauss2", "sparsemax_gauss", "sparsemax_gauss2", "sparsemax_sincos"],
)
def test_expectation_and_its_gradients(name, dtype):
    """Autodiff of the closed form against the published covariance formula, in (μ, σ²) and θ."""
    arrays = golden.load("b_continuous_attention")
    kind = LOCATED["gaussian" if name.startswith("softmax") else "sparsemax"]
    of = gaussian_basis_of(arrays, name).expectation
    if name.endswith("sincos"):
        of = partial(sines_then_cosines, arrays)
    cotangent = arrays[f"{name}_cotangent"].astype(dtype)

    def objective(mean, var):
        r = of(kind(mean, var))
        return (r * cotangent).sum(), r

    def objective_of_theta(theta):
        var = -0.5 / theta[:, 1]
        return objective(theta[:, 0] * var, var)

    mean, var, theta = (arrays[k].astype(dtype) for k in ("mu", "sigma_sq", f"{name}_theta"))
    with golden.precision(dtype):
        (grad_mean, grad_var), r = golden.jit(jax.grad(objective, (0, 1), has_aux=True))(mean, var)
        grad_theta, _ = golden.jit(jax.grad(objective_of_theta, has_aux=True))(theta)
    check(r, arrays[f"{name}_r"], ONE_STEP)
    check(grad_mean, arrays[f"{name}_grad_mu"], GRADIENT)
    check(grad_var, arrays[f"{name}_grad_sigma_sq"], GRADIENT)
    check(grad_theta, arrays[f"{name}_grad_theta"], GRADIENT)


@pytest.mark.parametrize("case", range(6))
def test_first_fit(case, dtype):
    arrays = golden.under(golden.load("c_ridge"), f"c{case}_")
    cfg, length = config(arrays), int(arrays["length"])
    check(cfg.basis.loc, arrays["basis_mu"], ONE_STEP)
    check(cfg.basis.scale, arrays["basis_sigma"], ONE_STEP)
    times, zeros = regression.first_fit_times(length), regression.first_fit_padding(length)
    check(np.sort(np.concatenate([times, zeros])), arrays["positions_padded"], ONE_STEP)
    x = channels_last(arrays["X"], dtype)
    with golden.precision(dtype):
        operators = long_term.operators(cfg, length)
        memory = jitted_write(cfg, length)(long_term.init(cfg, *x.shape[::2], dtype), x)
    check(operators.first[0], arrays["G"], ONE_STEP)
    check(memory.coeffs, arrays["B"], ONE_STEP)
    assert (memory.writes == 1).all()


@pytest.mark.parametrize("case", range(6))
def test_fit_inside_the_program(case, dtype):
    """`regression.fit` of the zero-padded signal is the same regression."""
    arrays = golden.under(golden.load("c_ridge"), f"c{case}_")
    cfg, times = config(arrays), arrays["positions_padded"].astype(dtype)
    x = channels_last(arrays["X"], dtype)
    margin = (len(times) - x.shape[1]) // 2
    padded = np.pad(x, [(0, 0), (margin, margin), (0, 0)])
    with golden.precision(dtype):
        fit = jax.vmap(lambda times, x: regression.fit(cfg.basis, times, x, cfg.ridge), (None, 0))
        coeffs = golden.jit(fit)(times, padded)
    check(coeffs, arrays["B"], ONE_STEP)


def test_first_fit_at_the_size_of_the_paper(dtype):
    arrays = golden.load("c_ridge_large")
    cfg = config(arrays)
    x = channels_last(arrays["X"], dtype)
    with golden.precision(dtype):
        operators = long_term.operators(cfg, 1024)
        memory = jitted_write(cfg, 1024)(long_term.init(cfg, 1, 2, dtype), x)
        t = arrays["reconstruction_t"].astype(dtype)
        signal = golden.jit(partial(long_term.signal, cfg))(memory, t)
    check(operators.first[0][arrays["rows"]], arrays["G_rows"], LARGE)
    check(memory.coeffs, arrays["B"], LARGE)
    check(signal.swapaxes(1, 2), arrays["reconstruction"], LARGE)


def write_rows(arrays, cfg, dtype):
    """Rows of the further writes' operator that the file holds: ours and the published ones."""
    operators = long_term.operators(cfg, int(arrays["length"]))
    rows = np.concatenate([operators.past[0], dense(operators.new)[0]])
    if "G_inf" in arrays:
        return rows, arrays["G_inf"]
    return rows[arrays["G_inf_rows_index"]], arrays["G_inf_rows"]


@pytest.mark.parametrize("file", range(4))
def test_operators_of_a_write(file, dtype):
    arrays = golden.load(f"d_update_{file}")
    cfg, length = config(arrays), int(arrays["length"])
    past, new = regression.write_times(cfg.tau, cfg.num_samples, length)
    zeros = regression.write_padding(cfg.num_samples, length)
    times = np.sort(np.concatenate([past, new, zeros]))
    check(times, arrays["positions_inf_padded"], ONE_STEP)
    with golden.precision(dtype):
        check(*write_rows(arrays, cfg, dtype), LARGE if cfg.num_basis == 512 else ONE_STEP)


@pytest.mark.parametrize("inject", [False, True], ids=["decay", "locations"])
@pytest.mark.parametrize("file", range(4))
def test_writes(file, inject, dtype):
    """Carried through every step, by A C and by samples at the same locations m/M given by hand."""
    arrays = golden.load(f"d_update_{file}")
    cfg, length = config(arrays), int(arrays["length"])
    xs = [channels_last(arrays[f"x_{s}"], dtype) for s in range(int(arrays["n_steps"]))]
    batch, _, dim = xs[0].shape
    grid = np.arange(1, cfg.num_samples + 1) / cfg.num_samples
    locations = np.tile(grid, (batch, 1)).astype(dtype) if inject else None
    tolerances = LARGE_SEVERAL_STEPS if cfg.num_basis == 512 else SEVERAL_STEPS
    with golden.precision(dtype):
        write = jitted_write(cfg, length)
        memory = long_term.init(cfg, batch, dim, dtype)
        for s, x in enumerate(xs):
            memory = write(memory, x, locations)
            check(memory.coeffs, arrays[f"B_{s}"], tolerances)


@pytest.mark.parametrize("file", range(4))
def test_one_write_and_the_samples_it_reads(file, dtype):
    """From the published coefficients of the step before."""
    arrays = golden.load(f"d_update_{file}")
    cfg, length = config(arrays), int(arrays["length"])
    tolerances = LARGE if cfg.num_basis == 512 else ONE_STEP
    grid = (np.arange(1, cfg.num_samples + 1) / cfg.num_samples).astype(dtype)
    with golden.precision(dtype):
        memory = holding(cfg, arrays["B_0"], dtype)
        samples = golden.jit(partial(long_term.signal, cfg))(memory, grid)
        written = jitted_write(cfg, length)(memory, channels_last(arrays["x_1"], dtype))
    check(samples.swapaxes(1, 2), arrays["x_past_1"][:, :, : cfg.num_samples], tolerances)
    check(written.coeffs, arrays["B_1"], tolerances)


def sticky_density(arrays, dtype):
    """The last step's densities [B, 1, T], as if one head had all the queries."""
    mean, scale = arrays["attn_mu"][:, None], arrays["attn_sigma"][:, None]
    return GaussianDensity(mean.astype(dtype), (scale**2).astype(dtype))


def test_bin_mass(dtype):
    arrays = golden.load("h_sticky_update")
    with golden.precision(dtype):
        p = golden.jit(partial(bin_mass, bins=128))(sticky_density(arrays, dtype))
    check(p, arrays["p"], ONE_STEP)


def test_drawn_locations(dtype):
    """The published draws, number by number."""
    arrays = golden.load("h_sticky_update")
    p, uniforms = arrays["p"].astype(dtype), arrays["uniforms"].T.astype(dtype)
    with golden.precision(dtype):
        drawn = golden.jit(drawn_locations)(p, uniforms)
    np.testing.assert_array_equal(drawn, arrays["sample_positions"])


def test_sticky_write(dtype):
    arrays = golden.load("h_sticky_update")
    cfg = config(arrays, sticky=True)
    x = channels_last(arrays["x"], dtype)
    locations = arrays["sample_positions"].astype(dtype)
    with golden.precision(dtype):
        memory = holding(cfg, arrays["B_past"], dtype)
        sampled = golden.jit(jax.vmap(partial(one_signal, cfg)))(memory.coeffs, locations)
        written = jitted_write(cfg, x.shape[1])(memory, x, locations)
    check(sampled.swapaxes(1, 2), arrays["x_cat"][:, :, : cfg.num_samples], ONE_STEP)
    check(written.coeffs, arrays["B_new"], ONE_STEP)


def one_signal(cfg, coeffs, t):
    """The signal of one row at its own times [M]: [M, E]."""
    row = long_term.init(cfg, 1, coeffs.shape[-1], coeffs.dtype)._replace(coeffs=coeffs[None])
    return long_term.signal(cfg, row, t)[0]


@pytest.mark.parametrize("file", ["e_ltm_forward_0", "e_ltm_forward_2", "h_gpt2_forward"])
def test_kl(file, dtype):
    arrays = golden.load(file)
    published = file.startswith("h")
    mean, var = (
        (arrays["attn_mu_1"], arrays["attn_sigma_1"] ** 2)
        if published
        else (arrays["mu_1"], arrays["sigma_sq_1"])
    )
    # The published GPT-2 copy inverts the test: a prior mean of -1 adds the mean's term.
    prior_mean = None if np.isnan(arrays["kl_mu_0"]) else float(arrays["kl_mu_0"])
    divergence = partial(kl, prior_scale=float(arrays["kl_sigma_0"]), prior_mean=prior_mean)
    density = GaussianDensity(mean.astype(dtype), var.astype(dtype))
    with golden.precision(dtype):
        result = golden.jit(divergence)(density)
    check(result.reshape(len(result), -1), arrays["kl_reg_1"], ONE_STEP)


def test_salience_of_the_gpt2_copy(dtype):
    """`remember` of segment s-1's densities is the histogram that segment s draws from."""
    arrays = golden.load("h_gpt2_forward")
    cfg = config(arrays)
    with golden.precision(dtype):
        remember = golden.jit(long_term.remember)
        for s in (1, 2):
            previous = {k: arrays[f"{k}_{s - 1}"] for k in ("attn_mu", "attn_sigma")}
            memory = holding(cfg, arrays[f"B_{s - 1}"], dtype)
            memory = remember(memory, sticky_density(previous, dtype))
            check(memory.salience, arrays[f"p_{s}"], ONE_STEP)
