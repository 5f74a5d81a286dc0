"""What the functions of the memory accept as arrays, and how they multiply them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: What a public function accepts as an array: a host array or a device array (or tracer).
AnyArray = jax.Array | np.ndarray

#: The precision of every product of the memory. By default GPUs multiply in TF32 and TPUs in
#: bfloat16 passes, which puts results off by 1.3 % and 10 %.
HIGHEST = jax.lax.Precision.HIGHEST


def beside(t: Any, *constants: Any) -> tuple[Any, ...]:
    """What broadcasts t [...] against constants [N]: (module, t [..., 1], constants [..., N]).

    The module is jax.numpy if t is a device array, else numpy; constants take t's floating dtype.
    """
    xp = jnp if isinstance(t, jax.Array) else np
    floating = jnp.issubdtype(getattr(t, "dtype", bool), jnp.floating)
    t = xp.asarray(t, dtype=None if floating else xp.zeros(()).dtype)[..., None]
    ones = (1,) * (t.ndim - 1)  # leading axes that broadcast: rank promotion is an error in tests
    return xp, t, *(xp.asarray(one, dtype=t.dtype).reshape(*ones, -1) for one in constants)


def normal_cdf(z: Any) -> Any:
    """`Φ(z)`, the standard normal distribution function; NumPy in, NumPy out."""
    if isinstance(z, jax.Array):
        # Less work than `jax.scipy.special.ndtr`, which computes both erf and erfc.
        return 0.5 + 0.5 * jax.lax.erf(z * 0.5**0.5)
    from scipy.special import ndtr  # a quarter of a second that few commands need

    return ndtr(z)
