"""The memory as pure functions of jax and NumPy: the paper's §2 and §3 and what extends them."""
