"""The read as one kernel: expectations live in registers, never in the device's memory.

`z = Σ_n E_p[ψ_n] V_n` (paper §3.1) by Pallas, in its Triton backend. A program holds one tile of
queries and walks over the tiles of the basis functions: it forms the expectations of a pair of
tiles, multiplies, adds up and forgets them. For the gradient of V a program holds a tile of basis
functions and walks over the queries. Each number is written by one program, so there are no
atomics, and the sums are in the same order every time.

Importing this module makes it available as `LongTermConfig(read="kernel")`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import GaussianBasis, expectation
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

    A GPU compiles it. Any other device runs it in Pallas' interpreter: right, and slow. XLA cannot
    partition the compiled kernel: over a mesh every device computes all rows and heads.

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
        widths = ((0, size - old) for size, old in zip(sizes, x.shape[1:], strict=True))
        return jnp.pad(x, ((0, 0), *widths), constant_values=fill)

    # The last tiles are filled up with any valid densities and functions; their values are 0.
    rows, columns = pl.cdiv(length, tile) * tile, pl.cdiv(count, tile) * tile
    more = (0, columns - count)
    loc, scale = (jnp.pad(jnp.asarray(b, dtype), more, constant_values=1.0) for b in basis)
    z = _read(
        tile,
        GaussianBasis(loc, scale),
        padded(density.mean, rows, fill=0.5),
        padded(density.var, rows, fill=1.0),
        padded(values, columns, max(pl.next_power_of_2(width), _SHORTEST)),
    )
    return z.reshape(batch, heads, rows, -1)[:, :, :length, :width]


READERS["kernel"] = expected_value


def _by_tiles(tile: int, basis: GaussianBasis, mean: Array, var: Array, values: Array) -> Array:
    """z [G, T, K] of mean and var [G, T] and values [G, N, K], all in whole tiles; G = B·H."""
    shape = (*mean.shape, values.shape[-1])
    (z,) = _over_tiles(_value_kernel, tile, (*basis, mean, var, values), (2, 3), (shape,))
    return z


def _forward(tile, basis, mean, var, values):
    return _read(tile, basis, mean, var, values), (basis, mean, var, values)


def _backward(tile, residuals, cotangent):
    basis, mean, var, values = residuals
    arrays = (*basis, mean, var, values, cotangent)
    grads = _over_tiles(_density_kernel, tile, arrays, (2, 3, 5), (mean.shape, var.shape))
    (grad_values,) = _over_tiles(_values_kernel, tile, arrays, (0, 1, 4), (values.shape,))
    return None, *grads, grad_values


_read = jax.custom_vjp(_by_tiles, nondiff_argnums=(0,))
_read.defvjp(_forward, _backward)


def _over_tiles(
    kernel: Callable[..., None],
    tile: int,
    arrays: Sequence[AnyArray],
    tiled: tuple[int, ...],
    shapes: Sequence[tuple[int, ...]],
) -> Sequence[Array]:
    """Run a program for each group (a head of a row) and each tile of the results' first axis.

    Args:
        arrays: what the kernel reads: [G, …], or the basis, which has no G.
        tiled: numbers of the arrays of which a program gets its own tile only. It gets the whole of
            every other array, within its group, and loads it tile by tile.
        shapes: shapes of the results. A program writes its own tile of each.
    """
    groups, size, *_ = shapes[0]

    def spec(shape, in_tiles):
        is_basis = len(shape) == 1
        block = (tile if in_tiles else shape[0 if is_basis else 1], *shape[2:])

        def index(group, i):
            position = (i if in_tiles else 0, *(0 for _ in shape[2:]))
            return position if is_basis else (group, *position)

        return pl.BlockSpec(block if is_basis else (None, *block), index)

    def call(*arrays, interpret):
        return pl.pallas_call(
            partial(kernel, tile),
            grid=(groups, size // tile),
            in_specs=[spec(x.shape, j in tiled) for j, x in enumerate(arrays)],
            out_specs=[spec(shape, True) for shape in shapes],
            out_shape=[jax.ShapeDtypeStruct(shape, arrays[-1].dtype) for shape in shapes],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=interpret,
            name=kernel.__name__.strip("_"),
        )(*arrays)

    compiled, interpreted = partial(call, interpret=False), partial(call, interpret=True)
    devices = {"cuda": compiled, "rocm": compiled, "default": interpreted}
    return jax.lax.platform_dependent(*arrays, **devices)


def _value_kernel(tile, loc, scale, mean, var, values, z):
    """z of a tile of queries."""
    mean, var = mean[...], var[...]

    def add(j, total):
        at = pl.ds(j * tile, tile)
        r = expectation(GaussianBasis(loc[at], scale[at]), mean, var)
        return total + jnp.dot(r, values[at], precision=HIGHEST)

    z[...] = _sum_over_tiles(add, loc, tile, jnp.zeros(z.shape, z.dtype))


def _density_kernel(tile, loc, scale, mean, var, values, cotangent, grad_mean, grad_var):
    """∂/∂mean and ∂/∂var of a tile of queries."""
    mean, var, cotangent = mean[...], var[...], cotangent[...]

    def add(j, total):
        at = pl.ds(j * tile, tile)
        basis = GaussianBasis(loc[at], scale[at])
        g = expectation(basis, mean, var) * jnp.dot(cotangent, values[at].T, precision=HIGHEST)
        return tuple(map(jnp.add, total, density_gradient(basis, mean, var, g)))

    zeros = jnp.zeros_like(mean), jnp.zeros_like(var)
    grad_mean[...], grad_var[...] = _sum_over_tiles(add, loc, tile, zeros)


def _values_kernel(tile, loc, scale, mean, var, values, cotangent, grad_values):
    """∂/∂V of a tile of basis functions."""
    basis = GaussianBasis(loc[...], scale[...])

    def add(i, total):
        at = pl.ds(i * tile, tile)
        r = expectation(basis, mean[at], var[at])
        return total + jnp.dot(r.T, cotangent[at], precision=HIGHEST)

    zeros = jnp.zeros(grad_values.shape, grad_values.dtype)
    grad_values[...] = _sum_over_tiles(add, mean, tile, zeros)


def _sum_over_tiles(add, array, tile, zeros):
    """Call `add` for every tile of the array's first axis, starting from zeros."""
    return jax.lax.fori_loop(0, array.shape[0] // tile, add, zeros)
