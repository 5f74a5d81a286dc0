"""The memory as pure functions of jax and NumPy: the paper's §2 and §3 and what extends them.

What is where, each file using those above it:

    density, basis     attention densities, their KL and histogram; ψ(t) and its expectations
    config             LongTermConfig and τ_k, the contraction of the k-th further write
    fit                vectors → coefficients: as points by ridge regression, or as intervals
    write_operators    the linear operators of a write; operator_tables stores and applies them
    long_term          the unbounded memory: write (contract the past, fit the new), reset, signal
    read               the expected signal under densities that two numbers locate; reading_basis
                       and cpu_cache speed it up
    content            the read by content, a softmax over cells, and its join to other attention
    hopfield           continuous Hopfield retrieval: the read by content, iterated
    compressed         the Compressive Transformer's memory and its reconstruction loss
    state              what a whole model carries: FIFO, pending write, counters, reset
    retained, coverage what a memory still holds of its past; which tokens attention falls on
"""
