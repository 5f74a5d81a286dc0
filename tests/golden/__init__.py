"""The published arrays (README.md beside this file) and how a result is held against them."""

from pathlib import Path

import jax
import numpy as np

FOLDER = Path(__file__).parent


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one golden file."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def relative_error(actual, expected) -> float:
    """‖actual − expected‖ / ‖expected‖ in float64; plain ‖actual‖ where zeros are expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    return float(np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0))


def precision(dtype):
    """Context in which JAX computes in `dtype` (float64 or float32)."""
    return jax.enable_x64(np.dtype(dtype) == np.float64)


def jit(function):
    """`jax.jit` without the backend's optimisations: each program runs once or thrice here."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})
