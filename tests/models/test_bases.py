"""A decoder whose memory is on any basis and read by any density trains: its loss goes down."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.memory import state
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from tests.golden import jit

ROWS, SEGMENTS, LENGTH, VOCAB = 2, 3, 8, 12
FUNCTIONS = {
    "gaussian": {"functions": "gaussian", "widths": (0.1,)},
    "rectangular": {"functions": "rectangular"},
    "fourier": {"functions": "fourier", "padding": False},
    "fourier intervals": {"functions": "fourier", "padding": False, "fit": "intervals"},
}


DENSITIES = ("gaussian", "sparsemax", "gibbs")
#: What a new basis or density adds; the tests of the schedules and of generation have others.
PAIRS = [("gaussian", "sparsemax"), ("rectangular", "sparsemax")] + [
    (functions, density) for functions in ("fourier", "fourier intervals") for density in DENSITIES
]
QUICK = ("fourier intervals", "gibbs")


@pytest.mark.parametrize(
    ("functions", "density"),
    [pytest.param(*p, marks=[] if p == QUICK else pytest.mark.slow) for p in PAIRS],
)
def test_the_loss_goes_down(functions, density):
    """8 steps of Adam on three segments of one batch, in float32: the loss falls in each."""
    memory = LongTermConfig(num_basis=9, bins=8, density=density, **FUNCTIONS[functions])
    cfg = ModelConfig(
        vocab_size=VOCAB, num_layers=1, num_heads=2, head_dim=4, d_model=8, d_inner=16,
        segment_len=LENGTH, mem_len=0, dropout=0.0, long_term=memory,
    )  # fmt: skip
    decoder, ops = Decoder(cfg), operators(cfg)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (SEGMENTS, ROWS, LENGTH + 1))
    empty = state.init(cfg, ROWS)

    def loss(params, ops):
        total, memory = jnp.zeros(()), empty
        for segment in tokens:
            out = decoder.apply({"params": params}, segment[:, :-1], memory, operators=ops)
            each = optax.softmax_cross_entropy_with_integer_labels(out.logits, segment[:, 1:])
            total, memory = total + each.mean(), out.memory
        return total

    optimiser = optax.adam(3e-3)

    @jit
    def step(params, moments, ops):
        value, grads = jax.value_and_grad(loss)(params, ops)
        updates, moments = optimiser.update(grads, moments)
        return optax.apply_updates(params, updates), moments, value, grads

    init = jit(partial(decoder.init, operators=ops))
    params = init(jax.random.key(0), tokens[0][:, :-1], empty)["params"]
    moments, losses = optimiser.init(params), []
    for _ in range(8):
        params, moments, value, grads = step(params, moments, ops)
        losses.append(float(value))
    assert (np.diff(losses) < 0).all() and np.isfinite(losses).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert (np.asarray(leaf) != 0).any() and np.isfinite(leaf).all(), jax.tree_util.keystr(path)
