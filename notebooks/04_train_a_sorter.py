# %% [markdown]
# # 4. Train a sorter and look inside
#
# The paper's sorting task (§4.1): the model reads n tokens whose distribution drifts. Then it lists
# the 20 symbols by how often each came. No window is long enough to count in, so only a memory of
# the whole sequence helps.
#
# This notebook trains a small ∞-former on 236 tokens in segments of 32, which takes about a minute
# on two cores. Then it looks at what the trained memory is used for.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.run import training
from experiments.sorting.config import SortingConfig
from experiments.sorting.data import run_batch
from inf_former_jax import init, operators
from inf_former_jax.memory.density import GaussianDensity, bin_mass

folder = Path(tempfile.mkdtemp()) / "sorter"

# %% [markdown]
# ## Train
#
# Every field of the configuration is an option of the command line.

# %%
COMMAND = f"""-m experiments.sorting infinity-former --out {folder} --length 236
    --model.segment-len 32 --model.mem-len 32 --optim.steps 1000 --optim.warmup-steps 40
    --optim.learning-rate 6e-3 --loop.eval-every 100 --loop.log-every 500 --loop.minutes 0
    --valid-sequences 80 --test-sequences 160"""
subprocess.run([sys.executable, *COMMAND.split()], capture_output=True, check=True)
result = json.loads((folder / "result.json").read_text())
tests = {label: test["accuracy"] for label, test in result["test"].items()}
for label, accuracy in {**tests, **result["baselines"]}.items():
    print(f"{accuracy:.3f} {label}")

# %% [markdown]
# ## Does it use its memory?
#
# *Exact counts* is what perfect counting would score over all that two layers of windows reach. The
# model is above it, so it knows more than its windows hold. With the memory emptied before every
# segment, the same parameters fall below it.

# %%
steps, accuracy, *_ = zip(*result["curve"], strict=True)
trained, emptied, _ = tests.values()
window = result["baselines"]["exact counts, 2 layers × window"]
figure, axes = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
axes.plot(steps, accuracy, "o-", label="validation")
axes.plot(steps[-1], trained, "*", markersize=14, label=f"test, {trained:.2f}")
axes.plot(steps[-1], emptied, "X", markersize=9, label=f"test, memory emptied, {emptied:.2f}")
axes.axhline(window, color="0.5", linestyle="--", label=f"exact counts, windows, {window:.2f}")
axes.set(title="the sorter counts beyond its windows", xlabel="update", ylim=(0, 0.65))
axes.set(ylabel="accuracy of the 20 answers")
axes.legend(fontsize=8, loc="upper left")
plt.show()
assert trained > window > emptied

# %% [markdown]
# ## Where do the heads look?
#
# `training.load` reads the newest checkpoint of a run. The decoder takes one segment and the
# memory, and gives the next memory. `info` holds the densities of every layer. Here are those of
# the last segment, where the answers are.

# %%
cfg, decoder, params, _ = training.load(SortingConfig, folder)
tokens = run_batch(cfg, "test", np.arange(32)).tokens  # [B, W, T]
step = jax.jit(decoder.apply)
memory, ops = init(cfg.model, batch=32), jax.device_put(operators(cfg.model))
for segment in range(tokens.shape[1]):
    out = step({"params": params}, tokens[:, segment], memory, operators=ops)
    memory = out.memory

# %%
BINS = 60
middles = (np.arange(BINS) + 0.5) / BINS
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), constrained_layout=True, sharey=True)
for layer, axis in enumerate(axes):
    density = out.info[layer]["density"]  # mean, var [B, H, T]
    for head in range(cfg.model.num_heads):
        one = GaussianDensity(*(field[:, head : head + 1] for field in density))
        share = bin_mass(one, BINS).mean(0)  # of the head's attention inside the memory
        width = float(jnp.median(jnp.sqrt(one.var)))
        axis.plot(middles, share * BINS, label=f"head {head}, σ {width:.2f}")
    axis.set(title=f"layer {layer}", xlabel="t, oldest to newest")
    axis.legend(fontsize=8, loc="lower center")
axes[0].set(ylabel="attention density", ylim=(0, 1.4))
figure.suptitle("every head averages the whole past: a count is an average")
plt.show()

# %% [markdown]
# The memory of a row has the same size whatever the number of tokens. At τ = 0.75 a segment that
# was written k writes ago has 0.75^k of its width left. For longer sequences there is
# `infinity-former-lasting`, whose segments all keep the same share.

# %%
kept = memory.layers[0].long_term
print(f"coefficients {kept.coeffs.shape} after {int(kept.writes[0])} writes of 32 tokens")
