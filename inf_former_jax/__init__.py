"""The ∞-former (Martins et al., ACL 2022) in JAX: an unbounded past at constant cost."""
