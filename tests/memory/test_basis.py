"""The basis against quadrature and hand-written tables, and what it must refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import basis
from tests import oracle

WIDTHS = (0.02, 0.1)


def test_centres_and_widths_are_centre_major():
    """Hand-written table of SPEC §1."""
    made = basis.gaussian_basis(6, (0.1, 0.2))
    np.testing.assert_array_equal(made.loc, [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(made.scale, [0.1, 0.2, 0.1, 0.2, 0.1, 0.2])


def test_basis_functions_are_densities():
    """Peak 1/(scale √2π), and integral 1."""
    made = basis.gaussian_basis(6, (0.1, 0.2))
    peaks = np.diag(basis.evaluate(made, made.loc))
    np.testing.assert_allclose(peaks, 1 / (made.scale * np.sqrt(2 * np.pi)))
    t = np.linspace(-3, 4, 70_001)
    np.testing.assert_allclose(basis.evaluate(made, t).sum(0) * 1e-4, 1, rtol=1e-9)


@pytest.mark.parametrize("mean, var", [(0.5, 0.01), (0.0, 1e-6), (1.0, 0.7), (0.31, 1e-3)])
def test_expectation_is_the_integral(mean, var):
    """The closed form equals quadrature, at the ends and for narrow and wide densities."""
    made = basis.gaussian_basis(8, WIDTHS)
    expected = oracle.expectation_by_quadrature(oracle.gaussian_basis(8, WIDTHS), mean, var)
    actual = basis.expectation(made, np.float64(mean), np.float64(var))
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12)


def test_host_and_device_agree_and_keep_their_dtype():
    """NumPy in, NumPy out in float64; a float32 array stays on the device in float32."""
    made = basis.gaussian_basis(8, WIDTHS)
    t = np.linspace(-0.2, 1.2, 15)
    host = basis.evaluate(made, t)
    device = basis.evaluate(made, jnp.asarray(t, jnp.float32))
    assert host.dtype == np.float64 and device.dtype == jnp.float32
    np.testing.assert_allclose(device, host, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "num_basis, widths", [(5, (0.1, 0.2)), (4, ()), (4, (0.1, 0.0)), (0, (1.0,))]
)
def test_impossible_bases_are_refused(num_basis, widths):
    """The message names the option and both numbers."""
    with pytest.raises(ValueError, match=r"num_basis: found|widths: found"):
        basis.gaussian_basis(num_basis, widths)
