"""Greedy tokens with the cache and the memory, and by reading the open segment anew for each.

All forms go on from the same document, whose last segment is nearly full: every token has about
`segment_len` tokens of context beside what the memory holds of the earlier segments.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.timing import operations
from inf_former_jax import generate
from inf_former_jax.generate import decoding
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators

CACHED = "with the cache"

#: Two logits this near are a tie: their order is the rounding's (TF32's, on an accelerator).
TIE = 1e-3


class Variant(NamedTuple):
    """A way to say tokens."""

    say: Callable[[], tuple[np.ndarray, np.ndarray | None]]
    """Tokens [1, new], and how far each one led if that is known."""
    traced: Any
    """A token's program."""
    compiled: Any
    """It, compiled."""
    taken: tuple[tuple[int, int], ...] = ()
    """Of its choices, see `benchmark_timing.operations`."""
    unread: int = 0
    """Bytes of arguments that it does not look at: operators of other numbers of writes."""

    def cost(self) -> tuple[dict[str, int], int, int]:
        """(operations by kind, bytes read and written but in place, bytes of HLO) of a token."""
        size = self.compiled.memory_analysis()
        moved = size.argument_size_in_bytes + size.output_size_in_bytes
        moved -= size.alias_size_in_bytes + self.unread
        counted = operations(self.traced.jaxpr.jaxpr, self.taken)
        return dict(counted), moved, len(self.compiled.as_text())


def model(quick: bool) -> ModelConfig:
    """GPT-2 of 4 layers of width 256 on segments of 512, with the lasting memory."""
    sizes = {"num_layers": 4, "num_heads": 4, "head_dim": 64, "d_model": 256, "d_inner": 1024,
             "vocab_size": 2048, "segment_len": 512}  # fmt: skip
    memory = LongTermConfig(num_basis=16, num_samples=16, widths=(0.1,), contraction="power")
    tiny = {"num_layers": 1, "num_heads": 2, "head_dim": 8, "d_model": 16, "d_inner": 16,
            "vocab_size": 64, "segment_len": 16, "long_term": memory}  # fmt: skip
    return presets.gpt2_infinity_lasting(**(tiny if quick else sizes))


def variants(cfg: ModelConfig) -> dict[str, Variant]:
    """Label → what says the last eighth of a fourth segment.

    With the cache a token is one `decoding.extend`. Recomputed, it is `Decoder` on the segment so
    far, padded to its length, which writes the memory and gives all logits each time; or the same
    without these two, of the memory as it was written when the segment began.
    """
    decoder, ops, key = Decoder(cfg), jax.device_put(operators(cfg)), jax.random.key(0)
    length, new = cfg.segment_len, cfg.segment_len // 8
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (1, 4 * length - new))
    tokens = tokens.astype(np.int32)
    start = generate.start(decoder, 1)
    init = jax.jit(decoder.init)
    params = init(key, tokens[:, :length], start.memory, operators=ops)["params"]
    say = partial(generate.generate, decoder, params, key=key, operators=ops, temperature=0)
    _, before = say(start, tokens[:, : 3 * length], 0)
    _, read = say(before, tokens[:, 3 * length :], 0)

    def whole(tokens, count, params, memory, ops):
        logits = decoder.apply({"params": params}, tokens, memory, operators=ops).logits
        return logits[0, count - 1]

    def last(tokens, count, params, memory, cache):
        nothing, none = jnp.zeros(1, jnp.int32), (None,) * cfg.num_layers
        of = decoder.apply(
            {"params": params}, tokens, count[None], nothing, memory, cache, none, method="extend"
        )
        return of.logits[0]

    segment = np.pad(tokens[:, 3 * length :], ((0, 0), (0, new)))
    anew = partial(_recomputed, segment, new)

    table = sum(leaf.nbytes for leaf in jax.tree.leaves(ops))
    row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(ops))
    constants = decoding.Constants(ops, decoding.distances(decoder, params), key)
    token, count = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    piece = decoding.Piece(token, count)
    one = decoding.extend.trace(decoder, params, read, piece, constants, 0)

    def cached():
        return np.asarray(say(read, tokens[:, :0], new)[0]), None

    return {
        # Its token neither opens a segment nor fills it.
        CACHED: Variant(cached, one, one.lower().compile(), ((1, 0),) * 2, table),
        "recomputed": anew(whole, params, before.memory, ops)._replace(unread=table - row),
        "recomputed, memory written once": anew(last, params, read.memory, read.cache),
    }


def _recomputed(segment, new, logits, *arguments):
    """Fills the last `new` places of a segment, each by `logits` of all that is before it."""

    @jax.jit
    def step(tokens, count, *arguments):
        (best, second), ids = jax.lax.top_k(logits(tokens, count, *arguments), 2)
        return tokens.at[0, count].set(ids[0]), best - second

    traced = step.trace(jnp.asarray(segment), jnp.int32(0), *arguments)
    compiled = traced.lower().compile()

    def run():
        tokens, leads = jnp.asarray(segment), []
        for count in range(segment.shape[1] - new, segment.shape[1]):
            tokens, lead = compiled(tokens, jnp.int32(count), *arguments)
            leads.append(lead)
        return np.asarray(tokens[:, -new:]), np.array(leads)

    return Variant(run, traced, compiled)


def require_same(said: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> int:
    """How many tokens all forms say alike: all of them, or those before the first tie.

    Raises:
        RuntimeError: a token differs that led by more than TIE: the first one is named.
    """
    cached, _ = said[CACHED]
    same = cached.shape[1]
    for label, (tokens, leads) in said.items():
        places = np.flatnonzero((tokens != cached)[0])
        if not places.size:
            continue
        place = int(places[0])
        if not 0 <= leads[place] <= TIE:
            raise RuntimeError(
                f"generation: token {place} of {cached.shape[1]}: found {cached[0, place]} "
                f"{CACHED}; expected {tokens[0, place]}, {label}, which leads by {leads[place]:.1e}"
            )
        same = min(same, place)
    return same
