"""Large temporaries in pieces: the same results."""

import jax
import jax.numpy as jnp
import numpy as np

from inf_former_jax.memory import cpu_cache


def test_pieces_are_the_largest_that_divide(monkeypatch):
    """Of 12 places where 5 would fit: three pieces of four, and each place's own result."""
    monkeypatch.setattr(cpu_cache, "CACHE_NUMBERS", 5)

    def squares(x):
        return cpu_cache.in_cached_pieces(jnp.square, 1, x)

    assert "length=3" in str(jax.make_jaxpr(squares)(np.zeros(12)))
    np.testing.assert_array_equal(jax.jit(squares)(np.arange(12)), np.arange(12) ** 2)
