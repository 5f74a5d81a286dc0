"""The products of a training step by the paper's formulas, as they are counted by JAX and by hand.

That the literal memory itself computes what ours does is in test_memory.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.literal import step_operations
from experiments.benchmark.memory import arrays, program, tiny
from experiments.benchmark.timing import count_products
from inf_former_jax.data.batches import segment
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.state import init
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder

B, W = 2, 4
MODEL = tiny()
LAYERS, T, E = MODEL.num_layers, MODEL.segment_len, MODEL.d_model
N, M, A = 6, 12, MODEL.num_heads * MODEL.head_dim


def batch_of(segments, last=True):
    """Documents of so many segments, with loss in the last one or in none."""
    tokens = np.ones((B, segments * T), np.int32)
    weights = np.zeros(tokens.shape)
    weights[:, -1] = last
    return segment(tokens, tokens, weights, T)


def count(function, given):
    return sum(count_products(jax.make_jaxpr(function)(given).jaxpr, []).values())


def test_reads_and_writes_are_those_of_the_literal_memory():
    """Of 4 segments the window holds one: the memory is written in the last two.

    The last has loss. The one before is run forward, without a read in its last layer, and its
    write finds no old signal. The gate's gradient is by its parameters alone.
    """
    given = jax.eval_shape(lambda: arrays(MODEL, B))
    read, write = (program("literal", MODEL, part, False) for part in ("read", "write"))

    def gate(given):
        def written(gate):
            return write({**given, "params": {**given["params"], "gate": gate}})

        found, pull = jax.vjp(written, given["params"]["gate"])
        return found, pull({"coeffs": given["cotangents"]["coeffs"]})

    both = count(program("literal", MODEL, "read", True), given)
    old_signal = 2 * (2 * B * M * N * E)  # its samples, and their share of the ridge
    # JAX differentiates by the samples' share too, and drops it.
    differentiated = count(gate, given) - 2 * B * M * N * E
    expected = LAYERS * (both + differentiated) + (LAYERS - 1) * count(read, given)
    expected += LAYERS * (count(write, given) - old_signal)
    without = dataclasses.replace(MODEL, long_term=None)
    batch = batch_of(W)
    assert step_operations(MODEL, batch) - step_operations(without, batch) == expected


def test_a_sticky_memory_needs_its_densities_in_every_layer():
    """Queries, keys, scores and both reductions in the last layer of a segment without loss."""
    sticky = dataclasses.replace(MODEL.long_term, sticky=True)
    more = 2 * T * E * A + 2 * N * E * A + 2 * T * N * A + 4 * MODEL.num_heads * T * N
    steered = dataclasses.replace(MODEL, long_term=sticky)
    batch = batch_of(W)
    # Of the segments without loss only the third has a signal to look at.
    assert step_operations(steered, batch) - step_operations(MODEL, batch) == B * more


def logits_of(model):
    """The sum of a decoder's logits on an empty window, by its parameters."""
    decoder, memory, tokens = Decoder(model), init(model, B), jnp.zeros((B, T), jnp.int32)
    params = jax.eval_shape(decoder.init, jax.random.key(0), tokens, memory)["params"]

    def loss(params):
        return decoder.apply({"params": params}, tokens, memory).logits.sum()

    return params, loss


def test_a_segment_alone_is_what_the_decoder_computes():
    """Forward they are ours, but for one distance more, which nothing has.

    Of the gradient, where ours forms scores anew, by hand: two products for each one, but one for
    the table of positions.
    """
    sizes = {"num_layers": 2, "num_heads": 2, "head_dim": 4, "d_model": 10, "d_inner": 14}
    model = presets.vanilla(**sizes, segment_len=T, vocab_size=22, dropout=0.0, query_chunk=T)
    params, loss = logits_of(model)
    forward = count(loss, params) - 2 * (2 * E * A + 2 * B * T * A)
    positions = 2 * 2 * T * E * A
    found = step_operations(model, batch_of(1))
    assert found == 3 * forward - positions
    # What has no memory needs nothing of segments without loss.
    assert step_operations(model, batch_of(3)) == found
    context, loss = (step_operations(MODEL, batch_of(3, last)) for last in (False, True))
    assert 0 < context < loss


def test_compressed_vectors_by_hand():
    """4 old vectors become one by a convolution; attention sees it, and is compared on both."""
    compressed = CompressedConfig(rate=4, length=T)
    model = dataclasses.replace(MODEL, long_term=None, compressed=compressed)
    plain = dataclasses.replace(model, compressed=None)
    new, two = T // 4, batch_of(3)  # the third segment is the first that compresses
    convolution = 2 * (2 * new * 4 * E * E)  # and its gradient by the weights
    keys = new * (4 * E * A + 3 * 2 * T * A)  # projected; scores by content and place, values
    seen = 3 * keys - 4 * new * E * A
    compared = 4 * (T + new) * E * A + 4 * T * A * (T + new) + 4 * new * E * A + 6 * T * A * new
    table = B * LAYERS * (convolution + seen + compared)
    assert step_operations(model, two) - step_operations(plain, two) == table
