"""The configuration that says what a decoder is made of: every model is a value of it."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax.typing import DTypeLike

from inf_former_jax.fields import Checked, Count, Natural, Positive, Rate
from inf_former_jax.memory.ages import require_ages
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.write_operators import check_size
from inf_former_jax.require import require

#: What a layer's parameters are called that a memory adds to it.
MEMORY_PARAMETERS = ("long_term", "compression")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """Architecture of a decoder. The defaults are the paper's sorting model without LTM.

    Raises:
        ValueError: on construction, for a combination that no model can have.
    """

    vocab_size: Count = 22
    """V, number of token ids."""
    num_layers: Count = 3
    num_heads: Count = 6
    """H."""
    num_kv_heads: Natural = 0
    """J, heads of keys and values in local attention, a divisor of H; 0 = H. H/J neighbouring heads
    of queries share one of them (grouped-query attention)."""
    head_dim: Count = 50
    """K, width of a head."""
    d_model: Count = 300
    """E, channels of the residual stream and of the memory."""
    d_inner: Count = 300
    """Width of the feed-forward layer."""
    segment_len: Count = 1024
    """T, tokens of a segment; also the length of a write."""
    mem_len: Natural = 1024
    """Short-term memory in tokens; beside a long-term memory a multiple of segment_len."""
    sinks: Natural = 0
    """Tokens at the beginning of a document that stay in the window when the short-term memory has
    moved on. A pretrained model that reads from its first token on gives the first ones much of its
    attention, and does badly without them (Xiao et al. 2023)."""
    long_term: LongTermConfig | None = None
    """The unbounded memory; None = none."""
    long_term_layers: tuple[Natural, ...] = ()
    """The layers, counted from 0, that have it; () = all."""
    compressed: CompressedConfig | None = None
    """The Compressive Transformer's memory of every layer; None = none."""
    norm: Literal["post", "pre"] = "post"
    """A norm after (post, published) or before (pre) each half of a layer."""
    norm_kind: Literal["layer", "rms"] = "layer"
    """layer: LayerNorm. rms: RMSNorm, `x / √(mean(x²) + ε)` times a scale, without a bias."""
    norm_epsilon: Positive = 1e-5
    """ε, which norms add to what they take the root of."""
    final_norm: bool = False
    """A norm between the last layer and the output matrix, as GPT-2's ln_f."""
    position: Literal["relative", "learned", "rotary"] = "relative"
    """relative: distances in attention (Transformer-XL). learned: a table that is added to the
    embeddings and begins anew in each segment; what is remembered keeps the positions it had.
    rotary: queries and keys of local attention are turned by their place in [window | segment], so
    that scores depend on distances (RoPE). Cells of a long-term memory are not."""
    max_position: Count = 1024
    """Rows of the learned table; the longest segment that it allows. With other positions it limits
    nothing; of rotary ones it says how far the loaded parameters were trained."""
    rope_theta: Positive = 10000.0
    """θ of rotary positions: channel k of K turns by θ^(-2k/K) a token, k < K/2."""
    cell_distance: Natural = 0
    """With rotary positions and a memory that is read by the layer's own matrices: at how many
    tokens from every query its cells stand. 0: neither is turned."""
    cells_by_age: bool = False
    """With rotary positions and such a memory: each cell stands before the short-term memory, as
    far as what it holds is old. cell_distance then limits how far; 0 = no limit."""
    activation: Literal["relu", "gelu", "gelu_exact", "swiglu"] = "relu"
    """Of the feed-forward layer; gelu is GPT-2's, by the tanh approximation, gelu_exact x·Φ(x).
    swiglu: `(silu(x G) ⊙ x W) W'`, a third matrix and no biases."""
    attention_bias: bool = False
    """Biases in the local attention's four projections; the long-term memory's have none."""
    tied: bool = False
    """The output matrix is the embedding's transpose."""
    scale_embedding: bool = True
    """Multiply embeddings by √d_model (Transformer-XL)."""
    dropout: Rate = 0.1
    """Rate of dropout of the embeddings and of what each half of a layer adds to its input."""
    inner_dropout: bool = True
    """Dropout also inside the feed-forward layer and before the output matrix (not in GPT-2)."""
    attention_dropout: Rate = 0.0
    """Rate of dropout of the local attention's probabilities."""
    same_length: bool = False
    """Let every query see the same number of keys, mem_len."""
    clamp_len: Natural = 0
    """Relative distances above this one count as this one; 0 = they all differ."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: embeddings, local attention, feed-forward and output matrix compute in it.
    Parameters, statistics, softmax, logits and all of the long-term memory stay float32."""
    query_chunk: Count = 256
    """Number of queries whose local attention scores exist at a time."""
    fused_attention: bool = False
    """Local attention by `jax.nn.dot_product_attention`, which knows no attention_dropout. Segments
    that are generated token by token do without it."""
    fused_by: Literal["xla", "cudnn"] = "xla"
    """xla: the scores of all queries are materialised. cudnn: flash attention of CUDA devices, in
    bfloat16 only; no scores are materialised with learned positions, and with relative positions
    only the scores by position, which it takes as a bias."""
    remat: bool = False
    """Recompute each layer's activations in the backward pass instead of keeping them. It costs one
    more forward pass, and the inputs of all layers and the activations of one live at a time. On a
    CPU the temporaries of the compiled step did not shrink."""
    memory_gradient: Natural = 0
    """k, how many segments a loss's gradient may go back through the memory; 0 = none (paper).

    In training the segments of a batch, counted from its end, form groups of k+1; the first group
    holds the remainder. The memory is differentiated inside a group and detached at its borders. So
    the last segment reaches k back, others reach at most k back, and k ≥ W-1 is full
    back-propagation through the batch, whose own start is always a constant. Each segment is run
    twice forward and once backward, whatever k is. Compressed vectors and sticky locations stay
    constants.
    """

    def __post_init__(self):
        super().__post_init__()
        require(self.d_model % 2 == 0, "d_model", self.d_model, "an even number")
        self._check_attention()
        self._check_memory()

    def remembers(self, layer: int) -> bool:
        """Whether a layer has the long-term memory."""
        chosen = not self.long_term_layers or layer in self.long_term_layers
        return self.long_term is not None and chosen

    @property
    def lower_layers(self) -> int:
        """How many layers, the first ones, stand below all that have a long-term memory."""
        return min(self.long_term_layers, default=0)

    def like_layer(self, layer: int) -> int:
        """The first layer that is made as this one is."""
        return next(j for j in range(layer + 1) if self.remembers(j) == self.remembers(layer))

    @property
    def kv_heads(self) -> int:
        """J, how many heads of keys and values local attention has."""
        return self.num_kv_heads or self.num_heads

    def _check_attention(self):
        heads, kv_heads, position = self.num_heads, self.kv_heads, self.position
        accepted = f"0 or a divisor of num_heads {heads}"
        require(heads % kv_heads == 0, "num_kv_heads", kv_heads, accepted)
        if position == "relative":
            accepted = f"0 or num_heads {heads} with relative positions"
            require(kv_heads == heads, "num_kv_heads", kv_heads, accepted)
        else:
            accepted = f"0 with {position} positions"
            require(self.clamp_len == 0, "clamp_len", self.clamp_len, accepted)
        if position == "rotary":
            accepted = "an even number with rotary positions"
            require(self.head_dim % 2 == 0, "head_dim", self.head_dim, accepted)
        if position == "learned":
            accepted = f"at most max_position {self.max_position} with learned positions"
            fits = self.segment_len <= self.max_position
            require(fits, "segment_len", self.segment_len, accepted)
        if self.same_length:
            require(self.mem_len > 0, "mem_len", self.mem_len, "≥ 1 beside same_length")
        if self.fused_attention:
            rate = self.attention_dropout
            require(rate == 0, "attention_dropout", rate, "0 beside fused_attention")
        if self.fused_by == "cudnn":
            found = f"cudnn without fused_attention or in {self.dtype}"
            fits = self.fused_attention and self.dtype == "bfloat16"
            require(fits, "fused_by", found, "xla there")

    def _check_memory(self):
        if self.long_term is not None or self.compressed is not None:
            kind = "compressed" if self.long_term is None else "long-term"
            accepted = f"a multiple of segment_len {self.segment_len} beside a {kind} memory"
            require(self.mem_len % self.segment_len == 0, "mem_len", self.mem_len, accepted)
        layers = self.long_term_layers
        if layers:
            found = f"{layers} without a long-term memory"
            require(self.long_term is not None, "long_term_layers", found, "none there")
            fits = len(set(layers)) == len(layers) and max(layers) < self.num_layers
            accepted = f"different layers 0 … {self.num_layers - 1}"
            require(fits, "long_term_layers", layers, accepted)
        if self.sinks:
            found = f"{self.sinks} with mem_len {self.mem_len}"
            require(self.mem_len > 0, "sinks", found, "0 without a short-term memory")
            # As many at least have left the short-term memory as soon as any have.
            least = self.segment_len - self.mem_len % self.segment_len
            sizes = f"mem_len {self.mem_len} and segment_len {self.segment_len}"
            accepted = f"at most {least} with {sizes}"
            require(self.sinks <= least, "sinks", self.sinks, accepted)
            found = f"{self.sinks} beside a compressed memory"
            require(self.compressed is None, "sinks", found, "0 there")
            require(not self.same_length, "sinks", f"{self.sinks} with same_length", "0 there")
        if self.memory_gradient:
            carried = self.mem_len > 0 or self.long_term is not None
            accepted = "0 without a short-term or long-term memory"
            require(carried, "memory_gradient", self.memory_gradient, accepted)
        if self.long_term is not None:
            check_size(self.long_term, self.segment_len, "long_term.max_operator_mib")
            count, heads = self.long_term.content_heads, self.num_heads
            accepted = f"fewer than num_heads {heads}; density = gibbs where all are"
            require(count < heads, "long_term.content_heads", count, accepted)
            found = "True beside fused_attention, which does not say what its scores sum to"
            fits = not (self.long_term.joined and self.fused_attention)
            require(fits, "long_term.joined", found, "False there")
        memory = self.long_term
        own = memory is None or memory.projections == "own"
        for name, without in {"cell_distance": 0, "cells_by_age": False}.items():
            found = f"{getattr(self, name)} with {self.position} positions"
            found += " and no memory that the layer's own matrices read" * own
            fits = getattr(self, name) == without or (self.position == "rotary" and not own)
            require(fits, name, found, f"{without} there")
        if self.cells_by_age and memory is not None:
            require_ages(memory, "cells_by_age")
        if self.compressed is not None:
            rate, length = self.compressed.rate, self.compressed.length
            require(not self.same_length, "same_length", True, "False beside a compressed memory")
            accepted = f"a divisor of segment_len {self.segment_len}"
            require(self.segment_len % rate == 0, "compressed.rate", rate, accepted)
            slots = self.segment_len // rate
            accepted = f"a multiple of the {slots} vectors that a segment yields"
            require(length % slots == 0, "compressed.length", length, accepted)


def compute_dtype(cfg: ModelConfig) -> DTypeLike | None:
    """What layers compute in; None = the dtype of their inputs and parameters."""
    return jnp.bfloat16 if cfg.dtype == "bfloat16" else None
