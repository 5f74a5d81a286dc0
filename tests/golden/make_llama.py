"""Make `llama/`: a tiny random Llama of `transformers`, its logits, and in float64 its gradients.

Run once, where torch and transformers are installed: `python tests/golden/make_llama.py`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "llama"


# `transformers` takes sines, norms and softmax in float32, whatever the model's dtype is.
# In float64 the first two are those below, and the softmax is that of torch's own attention.


class Rotary(torch.nn.Module):
    """Cosines and sines of the angles `s θ^(-2k/K)`."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, **_):
        speeds = 50.0 ** (-torch.arange(0, 4, 2, dtype=x.dtype) / 4)
        angles = position_ids[..., None].to(x.dtype) * speeds
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def norm(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm."""
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * x * scale


def main() -> None:
    """Weights in float32, as published ones are; logits in float32 and float64."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        rms_norm_eps=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 50.0},
        bos_token_id=0, eos_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            # Fresh scales are ones: errors in them would not be seen.
            centre = 1.0 if "norm" in name else 0.0
            tensor.copy_(centre + 0.3 * torch.randn_like(tensor))
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink()
    tokens = np.random.default_rng(0).integers(0, 40, size=(3, 16))
    given = torch.from_numpy(tokens)
    with torch.no_grad():
        narrow = model(given).logits.numpy()
    model = model.double()
    model.model.rotary_emb = Rotary()
    type(model.model.norm).forward = norm
    model.set_attn_implementation("sdpa")
    logits = model(given).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 40), given[:, 1:].reshape(-1)
    )
    loss.backward()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        tied = model(given).logits.numpy()
    grads = {
        f"grad.{name}": parameter.grad.numpy().astype(np.float32)
        for name, parameter in model.named_parameters()
    }
    np.savez_compressed(
        FOLDER / "outputs.npz", tokens=tokens, logits=logits.detach().numpy(),
        logits_float32=narrow, logits_tied=tied, loss=loss.item(), **grads,
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
