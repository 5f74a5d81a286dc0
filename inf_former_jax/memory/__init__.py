"""The memory as pure functions of jax and NumPy: the paper's §2 and §3 and what extends them.

What is where, each file using those above it:

    basis, density     ψ(t) and its expectations; attention densities, their KL and their histogram
    regression         vectors → coefficients: times, padding, the ridge operator, the in-graph fit
    config             LongTermConfig and τ_k, the contraction of the k-th further write
    write_operators    the linear operators of a write; operator_tables stores and applies them
    long_term          the unbounded memory: write (contract the past, fit the new), reset, signal
    read               the expected signal under densities; reading_basis and cpu_cache speed it up
    compressed         the Compressive Transformer's memory and its reconstruction loss
    state              what a whole model carries: FIFO, pending write, counters, reset
    retained, coverage what a memory still holds of its past; which tokens attention falls on
"""
