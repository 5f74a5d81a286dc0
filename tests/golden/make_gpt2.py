"""Make `gpt2/`: a tiny random GPT-2 of `transformers`, its float64 logits and gradients.

Run once, where torch and transformers are installed: `python tests/golden/make_gpt2.py`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "gpt2"


def main() -> None:
    """Weights in float32, as published ones are; everything computed from them in float64."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=None,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            # Fresh biases are zeros and fresh scales ones: errors in them would not be seen.
            centre = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0
            tensor.copy_(centre + 0.3 * torch.randn_like(tensor))
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink()
    tokens = np.random.default_rng(0).integers(0, 40, size=(3, 16))
    model = model.double()
    given = torch.from_numpy(tokens)
    logits = model(given).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 40), given[:, 1:].reshape(-1)
    )
    loss.backward()
    grads = {
        f"grad.{name}": parameter.grad.numpy().astype(np.float32)
        for name, parameter in model.named_parameters()
    }
    np.savez_compressed(
        FOLDER / "outputs.npz", tokens=tokens, logits=logits.detach().numpy(),
        loss=loss.item(), versions=f"torch {torch.__version__}, transformers "
        f"{transformers.__version__}", **grads,
    )  # fmt: skip


if __name__ == "__main__":
    main()
