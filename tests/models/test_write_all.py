"""The memory of W segments at once is that of writes one after the other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import all_segments

B, W, L, N, E = 3, 5, 4, 6, 2
UNIFORM = LongTermConfig(num_basis=N, widths=(0.1, 0.3), num_samples=8, bins=5)
POWER = dataclasses.replace(UNIFORM, contraction="power", tau=0.75, horizon=2)
STICKY = dataclasses.replace(UNIFORM, sticky=True)
KEPT = LongTermConfig(
    num_basis=N, functions="rectangular", fit="intervals", contraction="kept", tau=0.5,
    sticky=True,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def mass(memory, queries):
    """Where a segment looked depends on what it found."""
    seen = jnp.abs(memory.coeffs).sum((1, 2))[:, None] + queries
    return long_term.remember_mass(memory, seen)


@pytest.mark.parametrize(
    "cfg", [UNIFORM, POWER, STICKY, KEPT], ids=["uniform", "power", "sticky", "kept"]
)
def test_writes_of_segments_at_once(cfg):
    """Rows that begin anew, that do not write, segments that do not run; gradients of x too."""
    rng = np.random.default_rng(0)
    bins = cfg.salience_bins
    x, queries = rng.normal(size=(B, W, L, E)), rng.random((B, W, bins))
    clears, due = np.zeros((2, B, W), bool)
    clears[0, [3, 4]] = clears[1, 0] = clears[2, 1] = True
    due[0] = due[2, [1, 3]] = True  # row 1 never writes: what it had is kept until it is emptied
    runs = np.array([True, True, False, True, False])
    due[:, ~runs] = False
    memory = long_term.LongTermMemory(
        rng.normal(size=(B, N, E)),
        rng.random((B, bins)),
        np.array([2, 1, 0], np.int32),
    )
    memory.coeffs[2] = 0
    if cfg.keeps_ages:
        memory = memory._replace(ages=rng.uniform(1, 9, (B, N)) * (memory.writes > 0)[:, None])
    ops, attend = long_term.operators(cfg, L), mass if cfg.sticky else None
    cotangent = rng.normal(size=(B * W, N, E))
    each_writes, writes = [], memory.writes
    for w in range(W):
        writes = np.where(clears[:, w], 0, writes)
        each_writes.append(writes)
        writes = writes + due[:, w]
    course = all_segments.Course(
        None, clears, due, np.stack(each_writes, 1).astype(np.int32), None, runs
    )

    def one_by_one(x):
        now, found = jax.tree.map(jnp.asarray, memory), []
        for w in range(W):
            now = long_term.reset(jax.lax.stop_gradient(now), clears[:, w])
            now = long_term.write(cfg, now, x[:, w], operators=ops, rows=due[:, w])
            found.append((now.coeffs, now.writes, now.ages if cfg.keeps_ages else now.writes))
            if attend is not None and runs[w]:
                now = attend(now, queries[:, w])
        coeffs, writes, ages = (jnp.stack(of, 1) for of in zip(*found, strict=True))
        ages = ages.reshape(B * W, N) if cfg.keeps_ages else None
        return coeffs.reshape(B * W, N, E), (writes.reshape(-1), ages, jax.lax.stop_gradient(now))

    def at_once(x):
        each, after = all_segments.write_all(
            cfg, memory, x, course, operators=ops, steer=attend, queries=queries
        )
        return each.coeffs, (each.writes, each.ages, after)

    def run(of):
        found, pull, rest = jax.vjp(of, x, has_aux=True)
        return found, pull(cotangent), rest

    actual, expected = (jax.jit(run, static_argnums=0)(of) for of in (at_once, one_by_one))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
