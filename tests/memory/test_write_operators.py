"""The operators of a memory's writes: against the oracle, cached, and refused above a size."""

import dataclasses

import numpy as np
import pytest

from inf_former_jax.memory.long_term import LongTermConfig, operators
from inf_former_jax.memory.write_operators import write_operator
from tests import oracle
from tests.golden import relative_error

L, M = 8, 10
SIZES = {"num_basis": 8, "widths": (0.05, 0.2), "ridge": 0.5, "num_samples": M, "bins": 16}
FIXED = LongTermConfig(**SIZES, tau=0.6)
POWER = {"contraction": "power", "power": 1.5, "horizon": 4}
UNIFORM = LongTermConfig(**SIZES, **POWER)
STICKY = LongTermConfig(**SIZES, **POWER, sticky=True)


def oracle_at(k):
    """The oracle's settings at a row's k-th further write: horizon 4, p = 1.5."""
    k = min(max(k, 1), 4)
    return oracle.MemorySettings(**SIZES, tau=(k / (k + 1)) ** 1.5)


@pytest.mark.parametrize("cfg", [UNIFORM, STICKY], ids=["uniform", "sticky"])
def test_tables_hold_the_operators_of_every_count_and_nothing_unused(cfg):
    """In float64 they are `write_operator`'s; a uniform memory needs no G_past, a sticky no A."""
    ops = operators(cfg, L, np.float64)
    assert ops.new.shape == (4, L, 8) and (ops.decay is None) == cfg.sticky != (ops.past is None)
    for k in range(5):
        g_past, g_new = write_operator(cfg, L, k)
        np.testing.assert_array_equal(ops.new[k - 1] if k else ops.first[0], g_new)
        expected = oracle.write_operator(oracle_at(k), L)
        if k:
            assert relative_error(g_past, expected[:M]) < 1e-10
            assert relative_error(g_new, expected[M:]) < 1e-10
        if k and cfg.sticky:
            np.testing.assert_array_equal(ops.past[k - 1], g_past)


def test_a_table_above_its_bound_is_refused_with_the_numbers():
    """Before anything of it is built; the default fits the paper's sizes at horizon 64."""
    paper = LongTermConfig(contraction="power", horizon=128)
    with pytest.raises(ValueError, match=r"max_operator_mib: found 256 .* take up to 386\.0 MiB"):
        operators(paper, 1024)
    small = dataclasses.replace(UNIFORM, max_operator_mib=1, horizon=4000)
    with pytest.raises(ValueError, match=r"max_operator_mib: found 1 .*4000 contractions"):
        operators(small, L)


def test_operators_are_cached_float64_cast_once():
    """The same leaves for the same question, in the dtype asked for."""
    fixed = oracle.MemorySettings(**SIZES, tau=0.6)
    first, again = (operators(FIXED, L) for _ in range(2))
    assert first.new is again.new and first.new.dtype == np.float32
    exact = operators(FIXED, L, np.float64)
    np.testing.assert_array_equal(first.decay, exact.decay.astype(np.float32))
    assert relative_error(exact.new[0], oracle.write_operator(fixed, L)[M:]) < 1e-10
