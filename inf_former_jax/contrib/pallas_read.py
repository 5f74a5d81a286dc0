"""The read as one kernel: expectations live in a tile's registers, never in the device's memory.

`z = Σ_n E_p[ψ_n] V_n` (paper §3.1) by Pallas, in its Triton backend. A program holds one tile of
queries (or of basis functions, for the gradient of V) and walks over tiles of the other: it forms
the expectations of both, multiplies, adds up and forgets them. Each number is written by one
program, so there are no atomics, and the sums are in the same order every time.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import HIGHEST, AnyArray, GaussianBasis, expectation
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.read import READERS, density_gradient
from inf_former_jax.require import require

# The shortest side of a matrix that Triton multiplies.
_SHORTEST = 16


def expected_value(
    basis: GaussianBasis,
    density: GaussianDensity,
    values: Float[AnyArray, "B H N K"],
    tile: int = 32,
) -> Float[Array, "B H T K"]:
    """`z = Σ_n E_p[ψ_n] V_n` for each density p, tile by tile (paper §3.1).

    A GPU compiles it. Any other device runs it in Pallas' interpreter: right, and slow. Over a
    mesh XLA does not see into the compiled kernel: every device computes all rows and heads.

    Args:
        density: fields [B, H, T].
        values: V, the projected coefficients of each head; any T, N and K are padded here.
        tile: queries, and basis functions, whose expectations exist at a time in a program.

    Raises:
        ValueError: tile is no power of two ≥ 16.
    """
    fits = tile >= _SHORTEST and tile & (tile - 1) == 0
    require(fits, "tile", tile, f"a power of two ≥ {_SHORTEST}")
    (batch, heads, length), (count, width) = density.mean.shape, values.shape[2:]
    dtype = jnp.result_type(density.mean, density.var, values)

    def padded(x, *sizes, fill=0.0):
        x = jnp.asarray(x, dtype).reshape(-1, *x.shape[2:])
        widths = ((0, size - of) for size, of in zip(sizes, x.shape[1:], strict=True))
        return jnp.pad(x, ((0, 0), *widths), constant_values=fill)

    # What fills up the last tiles: any valid density or function, whose values are 0.
    rows, columns = pl.cdiv(length, tile) * tile, pl.cdiv(count, tile) * tile
    functions = (
        jnp.pad(jnp.asarray(of, dtype), (0, columns - count), constant_values=1.0) for of in basis
    )
    z = _read(
        tile,
        GaussianBasis(*functions),
        padded(density.mean, rows, fill=0.5),
        padded(density.var, rows, fill=1.0),
        padded(values, columns, max(pl.next_power_of_2(width), _SHORTEST)),
    )
    return z.reshape(batch, heads, rows, -1)[:, :, :length, :width]


READERS["kernel"] = expected_value


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read(tile, basis, mean, var, values):
    """z [B·H, T, K] of mean and var [B·H, T] and values [B·H, N, K], all in whole tiles."""
    shape = (*mean.shape, values.shape[-1])
    (z,) = _over_tiles(_value_kernel, tile, (*basis, mean, var, values), (2, 3), (shape,))
    return z


def _read_forward(tile, basis, mean, var, values):
    return _read(tile, basis, mean, var, values), (basis, mean, var, values)


def _read_backward(tile, residuals, cotangent):
    basis, mean, var, values = residuals
    given, of_density = (*basis, mean, var, values, cotangent), (mean.shape, var.shape)
    grads = _over_tiles(_density_kernel, tile, given, (2, 3, 5), of_density)
    (grad_values,) = _over_tiles(_values_kernel, tile, given, (0, 1, 4), (values.shape,))
    return None, *grads, grad_values


_read.defvjp(_read_forward, _read_backward)


def _over_tiles(kernel, tile, given, tiled, shapes):
    """Run a program for each [B·H] and tile; it sees a tile of what is `tiled` and of its results.

    Of all else it sees everything that belongs to its head, and loads it tile by tile.
    """
    groups, size, *_ = shapes[0]

    def spec(shape, in_tiles):
        shared = len(shape) == 1  # the basis, which has no [B·H]
        block = (tile if in_tiles else shape[0 if shared else 1], *shape[2:])

        def index(group, i):
            position = (i if in_tiles else 0, *(0 for _ in shape[2:]))
            return position if shared else (group, *position)

        return pl.BlockSpec(block if shared else (None, *block), index)

    def call(*given, interpret):
        return pl.pallas_call(
            partial(kernel, tile),
            grid=(groups, size // tile),
            in_specs=[spec(x.shape, j in tiled) for j, x in enumerate(given)],
            out_specs=[spec(shape, True) for shape in shapes],
            out_shape=[jax.ShapeDtypeStruct(shape, given[-1].dtype) for shape in shapes],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=interpret,
            name=kernel.__name__.strip("_"),
        )(*given)

    compiled, interpreted = partial(call, interpret=False), partial(call, interpret=True)
    devices = {"cuda": compiled, "rocm": compiled, "default": interpreted}
    return jax.lax.platform_dependent(*given, **devices)


def _value_kernel(tile, loc, scale, mean, var, values, z):
    """z of a tile of queries."""
    mean, var = mean[...], var[...]

    def add(j, total):
        of = pl.ds(j * tile, tile)
        r = expectation(GaussianBasis(loc[of], scale[of]), mean, var)
        return total + jnp.dot(r, values[of], precision=HIGHEST)

    z[...] = _sum_of_tiles(add, loc, tile, jnp.zeros(z.shape, z.dtype))


def _density_kernel(tile, loc, scale, mean, var, values, cotangent, grad_mean, grad_var):
    """∂/∂mean and ∂/∂var of a tile of queries."""
    mean, var, cotangent = mean[...], var[...], cotangent[...]

    def add(j, total):
        of = pl.ds(j * tile, tile)
        basis = GaussianBasis(loc[of], scale[of])
        g = expectation(basis, mean, var) * jnp.dot(cotangent, values[of].T, precision=HIGHEST)
        return tuple(map(jnp.add, total, density_gradient(basis, mean, var, g)))

    zeros = jnp.zeros_like(mean), jnp.zeros_like(var)
    grad_mean[...], grad_var[...] = _sum_of_tiles(add, loc, tile, zeros)


def _values_kernel(tile, loc, scale, mean, var, values, cotangent, grad_values):
    """∂/∂V of a tile of basis functions."""
    basis = GaussianBasis(loc[...], scale[...])

    def add(i, total):
        of = pl.ds(i * tile, tile)
        r = expectation(basis, mean[of], var[of])
        return total + jnp.dot(r.T, cotangent[of], precision=HIGHEST)

    zeros = jnp.zeros(grad_values.shape, grad_values.dtype)
    grad_values[...] = _sum_of_tiles(add, mean, tile, zeros)


def _sum_of_tiles(add, along, tile, zeros):
    return jax.lax.fori_loop(0, along.shape[0] // tile, add, zeros)
