"""Text from a model that carries its memory: prompts of any length in, sampled tokens out."""

from inf_former_jax.generate.decoding import DecodeState, load_state, save_state, start
from inf_former_jax.generate.generation import generate, stream
from inf_former_jax.generate.sampling import sample

__all__ = ["DecodeState", "generate", "load_state", "sample", "save_state", "start", "stream"]
