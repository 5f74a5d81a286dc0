"""One decoder for every model of the paper: they differ in what happens beyond the window.

x ─► short-term FIFO ─┬ dropped                              vanilla (FIFO of 0), Transformer-XL
                      ├ compressed, kept as extra keys       Compressive Transformer
                      └ regressed onto N basis functions     ∞-former

A model is a *value* of `ModelConfig`. The memory goes in and comes out; nothing is hidden.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.operators import require
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.architecture import ModelConfig
from inf_former_jax.models.block import Block, layer_norm
from inf_former_jax.models.dropout import dropout, row_keys
from inf_former_jax.models.local import F32, sinusoid


class Output(NamedTuple):
    """What a decoder returns for one segment."""

    logits: Float[Array, "B T V"]
    memory: Memory
    aux: dict[str, tuple[Array, Array]]  # "kl" and "reconstruction", each (sum, count), if any
    info: tuple[dict[str, Any], ...]  # per layer, for figures; costs nothing under jit when unused


def operators(cfg: ModelConfig, dtype=None) -> long_term.Operators | None:
    """The write operators that all layers share; None without a long-term memory.

    Host arrays: `jax.device_put` them once and pass them to every jitted call.
    """
    if cfg.long_term is None:
        return None
    return long_term.operators(cfg.long_term, cfg.segment_len, dtype)


class Decoder(nn.Module):
    """A causal language model over one segment, with its memory in and out."""

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        memory: Memory,
        *,
        operators: long_term.Operators | None = None,
        train: bool = False,
        where: Bool[AnyArray, "B T"] | None = None,
        kl_where: Bool[AnyArray, "B T"] | None = None,
    ) -> Output:
        """Next-token logits of a segment, and the memory for the next one (SPEC §4).

        All of the given memory is a constant to autodiff unless `cfg.memory_gradient` is positive:
        then it is differentiated, but for compressed vectors and sticky locations. Either way the
        gradient reaches the gate through this segment's write.

        Args:
            tokens: a segment of T ≤ cfg.segment_len tokens; after a shorter one only a reset may
                follow if there is a long-term or compressed memory.
            memory: from `memory.state.init` or the previous segment; apply `reset` first for rows
                that start a document.
            operators: `operators(cfg)`; always pass them inside jit.
            train: apply dropout; needs rngs={"dropout": key}. Random sticky locations need
                rngs={"locations": key}, in evaluation too.
            where: False at right padding, which counts in neither salience nor KL.
            kl_where: queries that count in `aux`; None = as `where`.

        Raises:
            ValueError: tokens or memory of a shape that does not fit the configuration.
        """
        cfg = self.cfg
        _check_call(cfg, tokens, memory)
        if cfg.memory_gradient == 0:
            memory = jax.lax.stop_gradient(memory)
        where = None if where is None else jnp.asarray(where)
        rows = None
        if train and max(cfg.dropout, cfg.attention_dropout) > 0:
            rows = row_keys(self.make_rng("dropout"), tokens.shape[0])
        embed = nn.Embed(cfg.vocab_size, cfg.d_model, embedding_init=_EMBEDDING, name="embed")
        x = embed(tokens) * cfg.d_model**0.5 if cfg.scale_embedding else embed(tokens)
        x, positions, biases = self._placed(x)
        x = dropout(x, cfg.dropout, rows, 0, "input")
        layers, info = [], []
        for j, layer in enumerate(memory.layers):
            block = Block(cfg, j, name=f"block_{j}")
            key = self.make_rng("locations") if _draws(cfg) else None
            x, new_layer, of_layer = block(
                x, layer, memory.seen, positions, biases, operators, rows, where, key
            )
            layers.append(new_layer)
            info.append(of_layer)
        logits = self._logits(x, embed, rows)
        new = Memory(state.advance(memory.seen, tokens.shape[1]), tuple(layers))
        aux = _aux(cfg, info, new, where if kl_where is None else jnp.asarray(kl_where))
        return Output(logits, new, aux, tuple(info))

    def _placed(self, x):
        """x with learned positions, or beside it what relative attention needs of all layers."""
        cfg, length = self.cfg, x.shape[1]
        if cfg.position == "learned":
            table = self.param("positions", _EMBEDDING, (cfg.max_position, cfg.d_model), F32)
            return x + table[None, :length], None, None
        shape = (cfg.num_heads, cfg.head_dim)
        biases = tuple(self.param(n, _BIAS, shape, F32) for n in ("bias_u", "bias_w"))
        return x, sinusoid(state.window_len(cfg) + length, cfg.d_model, cfg.clamp_len), biases

    def _logits(self, x, embed, rows):
        cfg = self.cfg
        if cfg.final_norm:
            x = layer_norm(name="norm_final")(x)
        if cfg.inner_dropout:
            x = dropout(x, cfg.dropout, rows, cfg.num_layers - 1, "output")
        if cfg.tied:
            return embed.attend(x)
        return nn.Dense(cfg.vocab_size, use_bias=False, name="logits")(x)


_EMBEDDING = nn.initializers.normal(0.02)
_BIAS = nn.initializers.normal(0.02)


def _draws(cfg):
    return cfg.long_term is not None and cfg.long_term.sticky and cfg.long_term.locations == "draw"


def _aux(cfg, info, memory, where):
    """Sums over layers and over the queries that count, and the number of the latter.

    The KL has a term for each head and query of a row whose memory is not empty; the
    reconstruction one for each query of a row that compressed something just now.
    """
    aux = {}
    if cfg.long_term is not None:
        holds = (memory.layers[0].long_term.writes > 0)[:, None, None]
        counts = holds if where is None else holds & where[:, None, :]
        aux["kl"] = _sum_where(counts, [of_layer["kl"] for of_layer in info])
    if cfg.compressed is not None:
        due = info[0]["compressed"][:, None]
        counts = due if where is None else due & where
        aux["reconstruction"] = _sum_where(counts, [layer["reconstruction"] for layer in info])
    return aux


def _sum_where(counts, terms):
    total = sum(terms)
    counts = jnp.broadcast_to(counts, total.shape)
    return jnp.where(counts, total, 0.0).sum(), counts.sum().astype(total.dtype)


def _check_call(cfg, tokens, memory):
    shape = np.shape(tokens)
    accepted = f"[B, T] with T ≤ segment_len {cfg.segment_len}"
    require(len(shape) == 2 and shape[1] <= cfg.segment_len, "tokens", shape, accepted)
    expected = jax.eval_shape(lambda: state.init(cfg, shape[0]))
    pairs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (memory, expected))
    found, accepted = ({jax.tree_util.keystr(p): leaf.shape for p, leaf in pair} for pair in pairs)
    for name in sorted(found.keys() | accepted.keys()):
        of = (found.get(name, "nothing"), accepted.get(name, "nothing"))
        require(of[0] == of[1], f"memory{name}", *of)
