# %% [markdown]
# # 6. Hopfield retrieval
#
# A modern Hopfield network keeps L patterns and completes a query: `ξ ← Xᵀ softmax(β X ξ)`. A
# long-term memory keeps N coefficients of a signal that goes through the patterns. Its retrieval is
# the same step with an integral over time, `ξ ← E_p[x̄(t)]` with `p(t) ∝ exp(β ξ·x̄(t))` (Santos et
# al., 2025). That is the read of a Gibbs density whose keys and values are the signal itself.
#
# This notebook asks what β does, and how many patterns N functions hold.

# %%
import matplotlib.pyplot as plt
import numpy as np

from inf_former_jax import LongTermConfig
from inf_former_jax.memory import long_term
from inf_former_jax.memory.hopfield import hopfield

L, E, STEPS = 256, 32, 3  # patterns, their width, iterations
rng = np.random.default_rng(0)


def of_length_1(x):
    """Vectors [..., E] divided by their lengths."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# %% [markdown]
# Two sequences of L patterns of length 1: independent ones, and ones that change slowly, noise that
# is smoothed over 8 steps. A query is a pattern with noise of length .57 added.

# %%
window = np.exp(-0.5 * (np.arange(-32, 33) / 8) ** 2)
noise = rng.normal(size=(L + 64, E))
smooth = np.stack([np.convolve(column, window, "valid") for column in noise.T], axis=1)
patterns = of_length_1(np.stack([rng.normal(size=(L, E)), smooth])).astype(np.float32)  # [2, L, E]
queries = patterns + 0.1 * rng.normal(size=patterns.shape).astype(np.float32)


def cells(n):
    """A signal on n equal cells."""
    return LongTermConfig(num_basis=n, functions="rectangular", fit="intervals")


def waves(n):
    """A signal of a constant and n/2 - 1 waves, n - 1 functions; n is even."""
    fixed = {"functions": "fourier", "fit": "intervals", "padding": False}
    return LongTermConfig(num_basis=n - 1, density="gibbs", cells=L, **fixed)


def retrieved(cfg, beta):
    """What the queries become after some steps, from a first write: C = Gᵀ X."""
    coeffs = long_term.operators(cfg, L).first[0].T @ patterns
    return np.asarray(hopfield(cfg, coeffs, queries, beta=beta, steps=STEPS))


def discrete(kept, beta):
    """The network that keeps these patterns [2, N, E]."""
    state = queries
    for _ in range(STEPS):
        scores = beta * state @ kept.swapaxes(1, 2)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        state = weights @ kept / weights.sum(-1, keepdims=True)
    return state


def cosine(state):
    """Mean cosine of the angle between what is found and what was asked for: [2]."""
    return (of_length_1(state) * patterns).sum(-1).mean(1)


# %% [markdown]
# ## β decides between one pattern and the mean of all
#
# With one cell for each pattern the continuous network *is* the discrete one. With fewer cells each
# holds the mean of its neighbours. That loses little of a sequence that changes slowly.

# %%
np.testing.assert_allclose(retrieved(cells(L), 16.0), discrete(patterns, 16.0), atol=1e-5)
betas = 2.0 ** np.arange(9)
of_beta = {
    "discrete, 256 patterns": [cosine(discrete(patterns, b)) for b in betas],
    "256 cells": [cosine(retrieved(cells(256), b)) for b in betas],
    "64 cells": [cosine(retrieved(cells(64), b)) for b in betas],
}
titles = "Independent: 64 cells find none of 256", "Slow: 64 cells find what 256 do"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, constrained_layout=True)
for row, axis in enumerate(axes):
    for (name, found), style in zip(of_beta.items(), ("o", "-", "--"), strict=True):
        axis.plot(betas, np.array(found)[:, row], style, label=name)
    axis.set(xscale="log", xlabel="β", title=titles[row])
axes[0].set_ylabel("cosine with the pattern")
axes[1].legend(loc="lower right")
plt.show()

# %% [markdown]
# ## How many patterns N functions hold
#
# Beside it: a discrete network with room for N patterns, which keeps every L/N-th one. It finds
# these and no others; the mean of a cell is a little like each of its patterns.

# %%
sizes = [8, 16, 32, 64, 128, 256]
of_size = {
    "cells": [cosine(retrieved(cells(n), 64.0)) for n in sizes],
    "waves": [cosine(retrieved(waves(n), 64.0)) for n in sizes],
    "discrete": [cosine(discrete(patterns[:, L // n // 2 :: L // n], 64.0)) for n in sizes],
}
titles = "Independent: all recall about √(N/256)", "Slow: 32 of any kind hold 256 patterns"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, constrained_layout=True)
for row, axis in enumerate(axes):
    for (name, found), style in zip(of_size.items(), ("o-", "s--", "^:"), strict=True):
        axis.plot(sizes, np.array(found)[:, row], style, label=name)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="N", title=titles[row])
axes[0].plot(sizes, np.sqrt(np.divide(sizes, L)), color="0.7", label="√(N/256)")
axes[0].set_ylabel("cosine with the pattern")
axes[0].legend()
plt.show()
assert min(of_size["cells"][2][1], of_size["waves"][2][1]) > 0.95  # N = 32, slow
