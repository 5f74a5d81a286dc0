"""Parameters of published models, as ours and back: GPT-2, Llama, the paper's own ∞-former."""
