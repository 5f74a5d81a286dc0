"""Parameters of published models, as ours and back: GPT-2, and the paper's own ∞-former."""
