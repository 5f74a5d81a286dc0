"""Time, variants in turns; and the least of it: matrix products and bytes at this machine's rates.

A floor of operations counts what the results need: products whose numbers nobody uses are left out,
as XLA leaves them out. A floor of bytes is that of arguments read and results written, each once.
"""

import collections
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval

HIGHEST = jax.lax.Precision.HIGHEST

#: How a product is computed; accelerators have a rate for each: dtype, precision.
KINDS = {"float32": (jnp.float32, HIGHEST), "float32 default": (jnp.float32, None),
         "bfloat16": (jnp.bfloat16, None)}  # fmt: skip


def interleaved(variants: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Label → seconds of each run: one of every variant, then the next, after one to warm up."""
    for run in variants.values():
        jax.block_until_ready(run())
    seconds: dict[Any, list[float]] = {label: [] for label in variants}
    for _ in range(repeats):
        for label, run in variants.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            seconds[label].append(time.perf_counter() - begun)
    return seconds


def product(size: int, kind: str = "float32") -> tuple[Callable[[], jax.Array], int]:
    """(a run of one [size, size] matrix product of KINDS, its operations)."""
    dtype, precision = KINDS[kind]
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    times = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    return lambda: times(a, a), 2 * size**3


def triad(size: int) -> tuple[Callable[[], jax.Array], int]:
    """(a run of a ← a + 2 b for float32 vectors [size], the bytes that it reads and writes).

    In place: the pages of a fresh array would be most of the time.
    """
    a, b = jnp.ones(size, jnp.float32), jnp.ones(size, jnp.float32)
    add = jax.jit(lambda a, b: a + 2 * b, donate_argnums=0)

    def run():
        nonlocal a
        a = add(a, b)
        return a

    return run, 3 * b.nbytes


class Machine:
    """What this machine can do, measured in turns with what it is compared with.

    Args:
        size: of the matrix products [size, size]; the triad's vectors have 8 size² numbers.
        kinds: of KINDS, those that the programs have products of.
    """

    def __init__(self, size: int, kinds: Sequence[str] = ("float32",)):
        made = {kind: product(size, kind) for kind in kinds} | {"bytes": triad(8 * size**2)}
        self.variants = {("machine", kind): run for kind, (run, _) in made.items()}
        self._amounts = {kind: amount for kind, (_, amount) in made.items()}

    def rates(self, seconds: Mapping[Hashable, Sequence[float]]) -> dict[str, float]:
        """Operations a second by kind, and "bytes" a second, of what `interleaved` took at best.

        Its best: a floor is what no run can be below.
        """
        return {
            kind: amount / min(seconds["machine", kind]) for kind, amount in self._amounts.items()
        }


def floors(
    seconds: float, operations: Mapping[str, int], moved: int, rates: Mapping[str, float]
) -> dict[str, float]:
    """What a program has to do, the seconds that it takes at these rates, the shares reached.

    Args:
        operations: of its matrix products by kind.
        moved: bytes of its arguments and results.
    """
    floor = sum(number / rates[kind] for kind, number in operations.items())
    by_bytes = moved / rates["bytes"]
    return {
        "operations": sum(operations.values()), "floor": floor, "share": floor / seconds,
        "bytes": moved, "bytes_floor": by_bytes, "bytes_share": by_bytes / seconds,
    }  # fmt: skip


def operations(jaxpr: Jaxpr, taken: Sequence[Sequence[int]] = ()) -> collections.Counter[str]:
    """Kind → multiplications and additions of a traced program's matrix products.

    Those of a scan count as often as it is long; of a choice, its cheapest branch that has any.

    Args:
        taken: how often each branch is taken in all, of the first choice among as many branches,
            then of the next one and so on: they count by their shares.
    """
    exact = _operations(jaxpr, list(taken))
    return collections.Counter({kind: round(number) for kind, number in exact.items() if number})


def _operations(jaxpr, taken):
    """`operations` in fractions; choices that are found are taken out of the list."""
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    total = collections.Counter()
    for eqn in live.eqns:
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval
            each = math.prod(left.shape[axis] for axis in summed)
            total[_kind(left.dtype, eqn.params["precision"])] += 2 * eqn.outvars[0].aval.size * each
        programs = list(_inner(eqn.params))
        if eqn.primitive.name == "cond" and taken and len(taken[0]) == len(programs):
            often = taken.pop(0)
            times = [Fraction(number, sum(often)) for number in often]
            inner = [_operations(of, []) for of in programs]
        else:
            inner = [_operations(of, taken) for of in programs]
            times = [Fraction(eqn.params.get("length", 1))] * len(inner)
            if eqn.primitive.name == "cond":
                times = _cheapest(inner)
        for of, often in zip(inner, times, strict=True):
            total.update({kind: number * often for kind, number in of.items()})
    return total


def _kind(dtype, precision):
    if dtype != jnp.float32:
        return dtype.name
    both = precision if isinstance(precision, tuple) else (precision,)
    return "float32" if all(of == HIGHEST for of in both) else "float32 default"


def _cheapest(branches):
    totals = [sum(of.values()) or math.inf for of in branches]
    return [Fraction(i == totals.index(min(totals))) for i in range(len(branches))]


def _inner(params):
    """The programs that an equation calls."""
    for value in params.values():
        for of in value if isinstance(value, tuple) else (value,):
            if isinstance(of, ClosedJaxpr):
                yield of.jaxpr
            elif isinstance(of, Jaxpr):
                yield of
