"""Time, variants in turns; and the least of it: a program's matrix products at this rate."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr


def interleaved(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Label → seconds of each run: one of every variant, then the next, after one to warm up."""
    for run in variants.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(repeats):
        for label, run in variants.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            seconds[label].append(time.perf_counter() - begun)
    return seconds


def product(size: int) -> tuple[Callable[[], jax.Array], int]:
    """(a run of one [size, size] float32 matrix product, its operations): this machine's rate."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    times = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
    return lambda: times(a, a), 2 * size**3


def matmul_operations(jaxpr: Jaxpr) -> int:
    """Multiplications and additions of a traced program's matrix products.

    Those of a scan count as often as it is long; of a choice, its most expensive branch.
    """
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(left[axis] for axis in summed)
        inner = [matmul_operations(of) for of in _inner(eqn.params)]
        if eqn.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * eqn.params.get("length", 1)
    return total


def _inner(params):
    """The programs that an equation calls."""
    for value in params.values():
        for of in value if isinstance(value, tuple) else (value,):
            if isinstance(of, ClosedJaxpr):
                yield of.jaxpr
            elif isinstance(of, Jaxpr):
                yield of
