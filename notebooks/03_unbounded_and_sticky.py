# %% [markdown]
# # 3. Unbounded and sticky, over many writes
#
# Every write squeezes the past into [0, τ] to make room. This notebook writes 32 segments and asks
# what is left of each. Three things decide it: the contraction, the basis, and, for sticky
# memories, where attention fell.

# %%
import matplotlib.pyplot as plt
import numpy as np

from inf_former_jax import LongTermConfig
from inf_former_jax.memory import density, long_term
from inf_former_jax.memory.retained import retention

N, L, WRITES = 128, 32, 32  # basis functions, vectors of a segment, segments
SIZES = {"num_basis": N, "num_samples": 512, "widths": (0.0078,), "gate": False}
MEMORIES = {
    "fixed, τ = 0.75 (the paper's)": LongTermConfig(**SIZES, tau=0.75),
    "power, τ_k = k/(k+1)": LongTermConfig(**SIZES, contraction="power"),
}
LEVELS = np.random.default_rng(3).uniform(-1, 1, size=WRITES)  # a segment repeats one number

# %% [markdown]
# ## Which segments can still be seen
#
# Each segment holds one constant, so the signal should look like stairs. With a fixed τ the newest
# segment always takes a quarter of the time axis, and one written k writes ago has τ^k of its width
# left. With `τ_k = k/(k+1)` every segment has the same share.


# %%
def written(cfg, count):
    """The memory after segments 0 … count - 1."""
    memory = long_term.init(cfg, batch=1, dim=1)
    operators = long_term.operators(cfg, L)
    for level in LEVELS[:count]:
        x = np.full((1, L, 1), level, np.float32)
        memory = long_term.write(cfg, memory, x, operators=operators)
    return memory


grid = np.linspace(0, 1, 1000)
figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), constrained_layout=True, sharex=True)
for axis, (name, cfg) in zip(axes, MEMORIES.items(), strict=True):
    memory = written(cfg, WRITES)
    borders = np.array([0.0, 1.0])  # of the segments, oldest first
    for k in range(1, WRITES):  # each further write squeezes the past into [0, τ_k]
        borders = np.append(cfg.tau_of(k) * borders, 1.0)
    axis.stairs(LEVELS, borders, color="0.6", label="what was written")
    axis.plot(grid, long_term.signal(cfg, memory, grid)[0, :, 0], label="the memory")
    seen = int((np.diff(borders) > 1 / N).sum())
    axis.set(title=f"{name}: {seen} of {WRITES} segments are wider than a basis function's spacing")
    print(f"{name}: the oldest segment has {borders[1] - borders[0]:.5f} of the time axis")
axes[0].legend(fontsize=8, loc="upper right")
axes[1].set(xlabel="t, oldest to newest")
plt.show()

# %% [markdown]
# ## How much of each segment can still be read
#
# Writes are linear, so this needs no training. `retention` follows the second moments of white
# noise through the operators. It gives R² of each segment's mean by its age, read by the best
# single density. One head can do no better.

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.2), constrained_layout=True)
for name, cfg in MEMORIES.items():
    kept = retention(cfg, WRITES, length=L).density[:, 0]
    axes.plot(kept, "o-", markersize=3, label=f"{name}, {(kept > 0.5).sum()} above one half")
    print(f"{name}: R² of the oldest segment {kept[-1]:.3f}")
axes.set(title="a fixed contraction forgets, k/(k+1) keeps every segment", ylim=(0, 1.05))
axes.set(xlabel="age of the segment in writes", ylabel="R² of its mean by one density")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Sticky memories: what is attended to keeps its width
#
# A sticky memory remembers where its queries looked. The next write takes more of its samples
# there, so that stretch of time is squeezed less. Below, all attention stays on segment 4, which
# is written once, while 8 more segments follow. A write moves time t to τ · P(t), where P is the
# cumulated attention. This is how the segment is found again.

# %%
EVENT, LATER = 4, 8
sticky = LongTermConfig(**SIZES, tau=0.75, sticky=True)
operators = long_term.operators(sticky, L)


def attended(place):
    """Eight queries of one head that look at the middle of a stretch of time."""
    middle, width = np.mean(place), max(np.diff(place)[0], 0.02) / 2
    fields = (np.full((1, 1, 8), value, np.float32) for value in (middle, width**2))
    return density.GaussianDensity(*fields)


figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), constrained_layout=True, sharex=True)
widths = {}
for axis, looks in zip(axes, (False, True), strict=True):
    memory, place = long_term.init(sticky, batch=1, dim=1), np.array([0.75, 1.0])
    for segment, level in enumerate(LEVELS[: EVENT + 1 + LATER]):
        if segment > EVENT:
            if looks:
                memory = long_term.remember(memory, attended(place))
            mass = np.append(0, np.cumsum(memory.salience[0])) if looks else np.linspace(0, 1, 129)
            place = 0.75 * np.interp(place, np.linspace(0, 1, 129), mass)
        x = np.full((1, L, 1), level, np.float32)
        memory = long_term.write(sticky, memory, x, operators=operators)
    widths[looks] = np.diff(place)[0]
    axis.plot(grid, long_term.signal(sticky, memory, grid)[0, :, 0], label="the memory")
    axis.axvspan(*place, color="C1", alpha=0.3, label=f"segment {EVENT}")
    axis.axhline(LEVELS[EVENT], color="0.6", linestyle=":", label="what it said")
    who = "attention stays on it" if looks else "nobody looks at it"
    axis.set(title=f"{who}: {widths[looks]:.3f} of the time axis after {LATER} more writes")
axes[0].legend(fontsize=8, loc="upper right")
axes[1].set(xlabel="t, oldest to newest")
plt.show()
assert widths[True] > 5 * widths[False]
