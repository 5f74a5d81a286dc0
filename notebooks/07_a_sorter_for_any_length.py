# %% [markdown]
# # 7. What a sorter that ships with the project has counted
#
# `experiments/sorting/trained` was trained on sequences of 4,012 tokens, and sorts longer ones as
# well. Two heads of four read the memory by a Gaussian density, the other two by content. This
# notebook asks what it gets wrong, and where its heads look.

# %%
import itertools
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments import sorting
from experiments.run import training
from experiments.sorting.config import SortingConfig
from experiments.sorting.data import run_batch
from inf_former_jax import init, operators
from inf_former_jax.memory.density import bin_mass

folder = Path(sorting.__file__).parent / "trained"
cfg, decoder, params, _ = training.load(SortingConfig, folder, ("params",))

# %% [markdown]
# ## Read and answer
#
# The tokens come in segments of 64. The last segment holds the answers: the 20 symbols by how often
# they came.

# %%
ROWS = 64
batch = run_batch(cfg, "test", np.arange(ROWS))  # [B, W, T]
step = jax.jit(decoder.apply)
memory, ops = init(cfg.model, batch=ROWS), jax.device_put(operators(cfg.model))
for segment in range(batch.tokens.shape[1]):
    out = step({"params": params}, batch.tokens[:, segment], memory, operators=ops)
    memory = out.memory
asked_for = batch.weights[:, -1] > 0  # [B, T]
given = np.asarray(out.logits.argmax(-1))[asked_for].reshape(ROWS, 20)
right = batch.targets[:, -1][asked_for].reshape(ROWS, 20)
hits = given == right
print(f"{hits.mean():.3f} of the answers are right, from {memory.layers[0].long_term.coeffs.shape}")

# %% [markdown]
# ## What it gets wrong
#
# Two symbols that came nearly as often are hard to tell apart. Here the answers are sorted by the
# *gap*: by how much the nearest neighbour's count differs.

# %%
sequences = batch.tokens.reshape(ROWS, -1)[:, : cfg.length]
counts = np.stack([np.bincount(row, minlength=22) for row in sequences])
in_order = np.take_along_axis(counts, right, axis=1)  # [B, 20], falling
above = np.diff(in_order, axis=1, prepend=np.inf)
below = np.diff(in_order, axis=1, append=-np.inf)
gaps = np.minimum(-above, -below)
edges = [0, 1, 3, 6, 12, 25, np.inf]
places = [(gaps >= low) & (gaps < high) for low, high in itertools.pairwise(edges)]
names = ["0", "1–2", "3–5", "6–11", "12–24", "25–"]
shares = [hits[place].mean() for place in places]

figure, axes = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
axes.plot(names, shares, "o-", label="accuracy")
axes.plot(names, [place.mean() for place in places], "s--", label="share of the answers")
axes.set(title="it errs where two symbols came nearly as often", ylim=(0, 1.03))
axes.set(xlabel="gap to the nearest neighbour, of 4,012 tokens")
axes.legend(fontsize=8)
plt.show()
assert hits.mean() > 0.8 and shares[1] < 0.8 < 0.95 < shares[4]

# %%
off = np.abs(np.take_along_axis(counts, given, axis=1) - in_order)[~hits]
for name, share in zip(names, shares, strict=True):
    print(f"{share:.2f} right where the gap is {name}")
print(f"a wrong symbol's count differs by {np.median(off):.1f} from the right one's (median)")
print(f"a count is {np.median(in_order):.0f} (median)")

# %% [markdown]
# So what is left to gain is between counts that are nearly equal.
#
# ## Where the heads look
#
# The share of each head's attention at the answers, from the oldest tokens to the newest.

# %%
BINS = 64
middles = (np.arange(BINS) + 0.5) / BINS
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), constrained_layout=True, sharey=True)
for layer, axis in enumerate(axes):
    density = out.info[layer]["density"]
    for kind, part in (("content", density.content), ("Gaussian", density.located)):
        for head in range(2):
            one = jax.tree.map(lambda field: field[:, head : head + 1], part)  # noqa: B023
            share = bin_mass(one, BINS, asked_for).mean(0)
            axis.plot(middles, share * BINS, label=f"{kind} {head}")
    axis.set(title=f"layer {layer}", xlabel="t, oldest to newest")
    axis.legend(fontsize=8)
axes[0].set(ylabel="attention density")
figure.suptitle("two heads average the whole past; in layer 1 two others look at its beginning")
plt.show()
