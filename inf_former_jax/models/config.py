"""The configuration that says what a decoder is made of: every model is a value of it."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax.typing import DTypeLike

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.write_operators import check_size
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a decoder. The defaults are the paper's sorting model without LTM.

    Raises:
        ValueError: on construction, for a combination that no model can have.
    """

    vocab_size: int = 22
    """V, number of token ids."""
    num_layers: int = 3
    num_heads: int = 6
    """H."""
    head_dim: int = 50
    """K, width of a head."""
    d_model: int = 300
    """E, channels of the residual stream and of the memory."""
    d_inner: int = 300
    """Width of the feed-forward layer."""
    segment_len: int = 1024
    """T, tokens of a segment; also the length of a write."""
    mem_len: int = 1024
    """Short-term memory in tokens; beside a long-term memory a multiple of segment_len."""
    long_term: LongTermConfig | None = None
    """The unbounded memory of every layer; None = none."""
    compressed: CompressedConfig | None = None
    """The Compressive Transformer's memory of every layer; None = none."""
    norm: Literal["post", "pre"] = "post"
    """Where LayerNorm stands (published: post)."""
    final_norm: bool = False
    """A LayerNorm between the last layer and the output matrix (GPT-2's ln_f)."""
    position: Literal["relative", "learned"] = "relative"
    """Relative (Transformer-XL), or a learned table, from 0 in each segment, added to embeddings.

    What is remembered of earlier segments keeps the learned positions that it had there.
    """
    max_position: int = 1024
    """Rows of the learned table; the longest segment that it allows."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of the feed-forward layer; gelu is the tanh approximation (GPT-2's gelu_new)."""
    attention_bias: bool = False
    """Biases of the local attention's four projections; the long-term memory's have none."""
    tied: bool = False
    """The output matrix is the embedding's transpose."""
    scale_embedding: bool = True
    """Multiply embeddings by √d_model (Transformer-XL)."""
    dropout: float = 0.1
    """Of the embeddings and of what attention and feed-forward add to the residual stream."""
    inner_dropout: bool = True
    """Dropout also inside the feed-forward layer and before the output matrix (not in GPT-2)."""
    attention_dropout: float = 0.0
    """Dropout of the local attention's probabilities."""
    same_length: bool = False
    """Let every query see the same number of keys, mem_len."""
    clamp_len: int = 0
    """Relative distances above it count as it; 0 = no clamping."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: of activations and products in embedding, local attention, feed-forward and output
    matrix. Parameters, statistics, softmax, logits and all of the long-term memory stay float32."""
    query_chunk: int = 128
    """Queries whose local attention scores exist at a time."""
    fused_attention: bool = False
    """Local attention by `jax.nn.dot_product_attention`, without attention_dropout. Generation does
    without."""
    fused_by: Literal["xla", "cudnn"] = "xla"
    """xla: all scores at once. cudnn: flash attention of CUDA devices, which never writes them out
    (of relative positions those of positions only); bfloat16 only."""
    remat: bool = False
    """Recompute each layer's activations in the backward pass instead of keeping them: what lives
    at a time is the inputs of all layers and the activations of one, for one more forward pass.

    On a CPU the temporaries of the compiled step have not become smaller by it."""
    memory_gradient: int = 0
    """k, segments that a loss's gradient may go back through the memory; 0 = none (paper).

    In training the segments of a batch, counted from its end, form groups of k+1 (the first one
    holds the remainder); the memory is differentiated inside a group and detached at its borders.
    So the last segment reaches k back, others at most k, and k ≥ W-1 is full back-propagation
    through the batch, whose own start is always a constant. Each segment is run twice and once
    backwards, whatever k; if all reached exactly k back, it would be k+1 times as much where every
    segment carries loss. Compressed vectors and sticky locations stay constants.
    """

    def __post_init__(self):
        sizes = ("vocab_size", "num_layers", "num_heads", "head_dim", "d_model", "d_inner",
                 "segment_len", "query_chunk", "max_position")  # fmt: skip
        for name in sizes:
            value = getattr(self, name)
            require(_is_whole(value) and value >= 1, name, value, "a whole number ≥ 1")
        require(self.d_model % 2 == 0, "d_model", self.d_model, "an even number")
        self._check_kinds()
        if self.fused_attention:
            rate = self.attention_dropout
            require(rate == 0, "attention_dropout", rate, "0 beside fused_attention")
        if self.fused_by == "cudnn":
            found = f"cudnn without fused_attention or in {self.dtype}"
            fits = self.fused_attention and self.dtype == "bfloat16"
            require(fits, "fused_by", found, "xla there")
        for name in ("mem_len", "memory_gradient"):
            value = getattr(self, name)
            require(_is_whole(value) and value >= 0, name, value, "a whole number ≥ 0")
        for name in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        if self.same_length:
            require(self.mem_len > 0, "mem_len", self.mem_len, "≥ 1 beside same_length")
        if self.long_term is not None or self.compressed is not None:
            kind = "compressed" if self.long_term is None else "long-term"
            accepted = f"a multiple of segment_len {self.segment_len} beside a {kind} memory"
            require(self.mem_len % self.segment_len == 0, "mem_len", self.mem_len, accepted)
        if self.memory_gradient:
            carried = self.mem_len > 0 or self.long_term is not None
            accepted = "0 without a short-term or long-term memory"
            require(carried, "memory_gradient", self.memory_gradient, accepted)
        if self.long_term is not None:
            check_size(self.long_term, self.segment_len)
        if self.compressed is not None:
            self._check_compressed(self.compressed)

    def _check_kinds(self):
        kinds = {"norm": ("post", "pre"), "position": ("relative", "learned"),
                 "activation": ("relu", "gelu"), "dtype": ("float32", "bfloat16"),
                 "fused_by": ("xla", "cudnn")}  # fmt: skip
        for name, known in kinds.items():
            require(getattr(self, name) in known, name, getattr(self, name), " or ".join(known))
        if self.position == "learned":
            accepted = f"at most max_position {self.max_position} with learned positions"
            require(
                self.segment_len <= self.max_position, "segment_len", self.segment_len, accepted
            )
            require(self.clamp_len == 0, "clamp_len", self.clamp_len, "0 with learned positions")

    def _check_compressed(self, compressed):
        require(not self.same_length, "same_length", True, "False beside a compressed memory")
        accepted = f"a divisor of segment_len {self.segment_len}"
        rate = compressed.rate
        require(self.segment_len % rate == 0, "compressed.rate", rate, accepted)
        slots = self.segment_len // rate
        accepted = f"a multiple of the {slots} vectors that a segment yields"
        length = compressed.length
        require(length % slots == 0, "compressed.length", length, accepted)


def compute_dtype(cfg: ModelConfig) -> DTypeLike | None:
    """What layers compute in; None = the dtype of their inputs and parameters."""
    return jnp.bfloat16 if cfg.dtype == "bfloat16" else None


def _is_whole(value):
    return isinstance(value, int)
