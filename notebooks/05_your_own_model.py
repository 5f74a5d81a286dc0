# %% [markdown]
# # 5. A memory for your own model
#
# This transformer is plain Linen, causal, blind to earlier segments. Lines that end in `# +` give
# it the ∞-former's memory, which needs the queries of a block and a `write` of what leaves.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from inf_former_jax import LongTermAttention, LongTermConfig
from inf_former_jax.memory import long_term

B, T, E, H = 128, 4, 32, 2  # rows, tokens of a segment, channels, heads
SYMBOLS, NOISE, QUESTION = 4, 4, 5
MEMORY = LongTermConfig(num_basis=32, widths=(0.02, 0.06), num_samples=64)  # +
OPERATORS = jax.device_put(long_term.operators(MEMORY, T))  # + of writes of T vectors

# %% [markdown]
# ## The model
#
# `LongTermAttention` takes queries [B, H, T, K], projected and unscaled. Its context [B, T, E] is
# added to the local attention's. Write what the next segment will not see: here the whole input.


# %%
class Block(nn.Module):
    """Attention within a segment and to the memory, then feed-forward: (outputs, memory)."""

    @nn.compact
    def __call__(self, x, memory, operators):  # x [B, T, E]
        y = nn.LayerNorm()(x)
        q, k, v = (nn.DenseGeneral((H, E // H), name=name)(y) for name in "qkv")  # [B, T, H, K]
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        out = nn.DenseGeneral(E, (-2, -1))(nn.dot_product_attention(q, k, v, mask=mask))
        long = LongTermAttention(MEMORY, name="long_term")  # +
        context, memory, _ = long(q.swapaxes(1, 2), memory)  # + read what earlier segments wrote
        memory = long.write(memory, x, operators=operators)  # + this one, for those that follow
        x = x + out + context  # +
        return x + nn.Dense(E)(nn.gelu(nn.Dense(2 * E)(nn.LayerNorm()(x)))), memory


class Transformer(nn.Module):
    """Embeddings, one block and logits: (logits, the block's memory)."""

    @nn.compact
    def __call__(self, tokens, memory, operators):  # tokens [B, T] -> logits [B, T, SYMBOLS]
        x = nn.Embed(SYMBOLS + 2, E, embedding_init=nn.initializers.normal(1.0))(tokens)
        x, memory = Block()(x + nn.Embed(T, E)(jnp.arange(T))[None], memory, operators)
        return nn.Dense(SYMBOLS)(nn.LayerNorm()(x)), memory


# %% [markdown]
# ## Train and test it
#
# Of a document's three segments one announces a symbol among noise, one is noise, the last asks for
# it. `long_term.reset(memory, rows)` empties the memory of rows [B] in which a document begins.


# %%
def batch(rng):
    """Tokens [3, B, T] of documents, and the symbol [B] that each announces."""
    symbol, tokens = rng.integers(SYMBOLS, size=B), np.full((3, B, T), NOISE)
    tokens[0, np.arange(B), rng.integers(T, size=B)] = symbol
    tokens[2, :, -1] = QUESTION
    return tokens, symbol


def run(params, tokens, symbol, operators, empty=False):
    """Cross-entropy and accuracy of the answers; empty = forget before every segment."""
    memory = long_term.init(MEMORY, B, E)
    for segment in tokens:
        memory = long_term.reset(memory, jnp.full(B, empty))
        logits, memory = model.apply(params, segment, memory, operators)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits[:, -1], symbol).mean()
    return loss, (logits[:, -1].argmax(-1) == symbol).mean()


@jax.jit
def update(params, state, tokens, symbol, operators):
    """One update on documents [3, B, T]: (parameters, optimiser's state, accuracy before it)."""
    grads, right = jax.grad(run, has_aux=True)(params, tokens, symbol, operators)
    changes, state = optimiser.update(grads, state)
    return optax.apply_updates(params, changes), state, right


model, optimiser, rng = Transformer(), optax.adam(7e-3), np.random.default_rng(0)
fresh = long_term.init(MEMORY, B, E)
params = jax.jit(model.init)(jax.random.key(0), batch(rng)[0][0], fresh, OPERATORS)
state, curve = optimiser.init(params), []
for _ in range(80):
    params, state, right = update(params, state, *batch(rng), OPERATORS)
    curve.append(float(right))
evaluate, test = jax.jit(run), batch(rng)
carried, emptied = (float(evaluate(params, *test, OPERATORS, e)[1]) for e in (False, True))
assert carried > 0.9 and emptied < 0.4

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
axes.plot(curve, label=f"while it trains; test {carried:.2f}")
axes.axhline(emptied, color="C3", label=f"test, memory emptied, {emptied:.2f}")
axes.set(title="the answer comes through the memory alone", xlabel="update", ylabel="accuracy")
axes.legend(fontsize=8, loc="center right")
plt.show()

# %% [markdown]
# ## From Flax NNX
#
# `nnx.bridge.ToNNX` makes the layer an NNX module. Its parameters live in it, its memory does not.

# %%
x, q = jnp.ones((B, T, E)), jnp.ones((B, H, T, E // H))
layer = nnx.bridge.ToNNX(LongTermAttention(MEMORY), rngs=nnx.Rngs(0)).lazy_init(q, fresh)
context, _, _ = layer(q, layer(fresh, x, operators=OPERATORS, method="write"))
print(f"context {context.shape}; parameters {list(nnx.state(layer, nnx.Param))}")
