# %% [markdown]
# # An unbounded memory for a model of your own
#
# The transformer below is nobody's in particular: plain Linen, pre-norm, causal within a segment,
# blind to every earlier one. Lines that end in `# +` add the ∞-former's memory to it. What it
# takes: the queries that a block has anyway, a `write` of what leaves, a memory a layer that the
# caller carries. On one core of a CPU this notebook runs in seconds.

# %%
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from inf_former_jax import LongTermAttention, LongTermConfig
from inf_former_jax.memory import long_term

B, T, E, H, LAYERS = 32, 4, 32, 2, 2  # rows, tokens of a segment, channels, heads, layers
MEMORY = LongTermConfig(num_basis=32, widths=(0.02, 0.06), num_samples=64)  # +
OPERATORS = jax.device_put(long_term.operators(MEMORY, T))  # + of writes of T vectors
# Here compiling takes longer than running. Leave the options out where that is otherwise.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# %% [markdown]
# ## 1. The model
#
# `LongTermAttention` wants queries as [B, H, T, K]: those that the block has projected, unscaled.
# Its context is [B, T, E], summed over heads and projected; it is added to the local attention's,
# without a gate. In your model: find where q is made, add the context where attention is added, and
# write what the next segment will no longer see – here the block's own input, all of it. (With a
# window of earlier segments, write what falls out of it, once.)
#
# A memory of constant size goes in, a new one comes out; no variable of the module holds it.


# %%
class Block(nn.Module):
    """A pre-norm layer, causal within a segment: (x, memory) -> (x, memory)."""

    @nn.compact
    def __call__(self, x, memory, operators):  # x [B, T, E]
        y = nn.LayerNorm()(x)
        q, k, v = (nn.DenseGeneral((H, E // H), name=name)(y) for name in "qkv")  # [B, T, H, K]
        seen = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        attended = nn.dot_product_attention(q, k, v, mask=seen)
        out = nn.DenseGeneral(E, axis=(-2, -1), name="out")(attended)
        long = LongTermAttention(MEMORY, name="long_term")  # +
        context, memory, _ = long(q.swapaxes(1, 2), memory)  # + read what earlier segments wrote
        memory = long.write(memory, x, operators=operators)  # + this one, for those that follow
        x = x + out + context
        y = nn.gelu(nn.Dense(2 * E)(nn.LayerNorm()(x)))
        return x + nn.Dense(E)(y), memory


class Transformer(nn.Module):
    """Logits [B, T, SYMBOLS] of a segment, and the memory of each layer after it."""

    @nn.compact
    def __call__(self, tokens, memories, operators):  # tokens [B, T], a memory a layer
        x = nn.Embed(SYMBOLS + 2, E, embedding_init=nn.initializers.normal(1.0))(tokens)
        x = x + nn.Embed(T, E)(jnp.arange(T))[None]
        written = []
        for memory in memories:
            x, memory = Block()(x, memory, operators)
            written.append(memory)
        return nn.Dense(SYMBOLS)(nn.LayerNorm()(x)), tuple(written)


# %% [markdown]
# ## 2. A task that needs it
#
# A document is three segments: one announces a symbol somewhere among noise, one is all noise, the
# last ends in a question whose answer is the symbol. Segments share nothing but the memory: without
# it one symbol in four is right. The rows of a batch are out of step, as streams of documents are,
# so at any segment a third of them begins anew.

# %%
SYMBOLS, NOISE, QUESTION, W = 4, 4, 5, 6  # W segments an update: two documents a row


def batch(rng):
    """Tokens [W, B, T]; answers, asked (a question is), begins (a document does), each [W, B]."""
    part = (np.arange(W)[:, None] + np.arange(B)) % 3  # 0 announces, 1 noise, 2 asks
    symbol = rng.integers(SYMBOLS, size=(W, B))
    tokens = np.full((W, B, T), NOISE)
    w, b = np.nonzero(part == 0)
    tokens[w, b, rng.integers(T, size=len(w))] = symbol[w, b]
    tokens[part == 2, -1] = QUESTION
    # What was announced two segments ago; a row's first document may have begun before the batch.
    asked = (part == 2) & (np.arange(W) >= 2)[:, None]
    return tokens, np.roll(symbol, 2, axis=0), asked, part == 0


# %% [markdown]
# ## 3. Carry, reset, train
#
# The memory is a scan's carry. `long_term.reset(memory, rows [B])` empties the rows in which a
# document begins, and those only; a reset row is a fresh one. What was stored is a constant to
# autodiff, so a gradient ends at the write before the read, however long the stream. Operators are
# built once, on the host, and passed in as an argument.


# %%
def fresh():
    """An empty memory a layer."""
    return tuple(long_term.init(MEMORY, B, E) for _ in range(LAYERS))


def run(params, data, operators, empty=False):
    """Cross-entropy and accuracy of the answers of a batch."""

    def segment(memories, now):
        tokens, answers, asked, begins = now
        memories = tuple(long_term.reset(memory, begins | empty) for memory in memories)
        logits, memories = model.apply(params, tokens, memories, operators)
        logits = logits[:, -1]  # [B, SYMBOLS], at the question
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
        right = logits.argmax(-1) == answers
        return memories, ((loss * asked).sum(), (right & asked).sum(), asked.sum())

    _, (loss, right, asked) = jax.lax.scan(segment, fresh(), data)
    return loss.sum() / asked.sum(), right.sum() / asked.sum()


@jit
def update(params, state, data, operators):
    """One step of the optimiser: (params, its state, accuracy before it)."""
    (_, right), grads = jax.value_and_grad(run, has_aux=True)(params, data, operators)
    updates, state = optimiser.update(grads, state)
    return optax.apply_updates(params, updates), state, right


model, optimiser, rng = Transformer(), optax.adam(7e-3), np.random.default_rng(0)
data = batch(rng)
params = jit(model.init)(jax.random.key(0), data[0][0], fresh(), OPERATORS)
state, curve = optimiser.init(params), []
for _ in range(60):
    params, state, right = update(params, state, batch(rng), OPERATORS)
    curve.append(float(right))
print(f"accuracy of the last ten updates: {np.mean(curve[-10:]):.2f}")

# %% [markdown]
# ## 4. Is it the memory?
#
# The same parameters on new documents, and again with the memory emptied before every segment.

# %%
evaluate = jit(run)
test = [batch(rng) for _ in range(4)]
carried, emptied = (
    np.mean([evaluate(params, data, OPERATORS, empty)[1] for data in test])
    for empty in (False, True)
)
print(f"accuracy: {carried:.3f} with the memory, {emptied:.3f} emptied, chance {1 / SYMBOLS:.3f}")
assert carried > 0.9 and emptied < 0.4

# %%
plt.plot(curve, label="with the memory")
plt.axhline(emptied, color="C3", label="the same model, memory emptied")
plt.axhline(1 / SYMBOLS, color="0.6", linestyle=":", label="chance")
plt.gca().set(xlabel="update", ylabel="accuracy of the answers", ylim=(0, 1.05))
plt.legend()
plt.show()
