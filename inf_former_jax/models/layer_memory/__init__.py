"""What becomes of a layer's inputs when they leave the short-term memory: one file a kind.

    kind         the protocol that each kind answers, and what a read returns
    compressed   c neighbours become one vector, which local attention sees as a further key
    long_term    they are regressed onto N basis functions, and read by continuous attention

The short-term memory itself is a FIFO of inputs (`memory.state`). A model without any of these
kinds drops what leaves it.
"""
