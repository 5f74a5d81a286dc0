"""Text from a model that carries its memory: prompts of any length in, sampled tokens out.

    state = generate.start(decoder, batch)
    _, state = generate.generate(decoder, params, state, document, 0, key)  # read it
    tokens, state = generate.generate(decoder, params, state, question, 100, key, top_p=0.9)

`decoding` carries a state from token to token, `saved` keeps it in a file, `sampling` draws the
next token from its logits, and `generation` reads a prompt and says new tokens.
"""

from inf_former_jax.generate.decoding import DecodeState, NonFiniteState, start
from inf_former_jax.generate.generation import generate, stream
from inf_former_jax.generate.sampling import Sampling, sample
from inf_former_jax.generate.saved import load_state, save_state

__all__ = [
    "DecodeState",
    "NonFiniteState",
    "Sampling",
    "generate",
    "load_state",
    "sample",
    "save_state",
    "start",
    "stream",
]
