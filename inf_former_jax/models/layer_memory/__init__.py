"""What becomes of a layer's inputs once they leave the window: one protocol, one file a kind.

    kind         the protocol, `MemoryKind`, and all kinds of a layer together, `MemoryKinds`
    short_term   the last inputs are kept as they are, and attended to as further keys
    compressed   c neighbours become one vector, attended to as a further key
    long_term    they are regressed onto N basis functions, and read by continuous attention

A model without any of these has no memory. What they carry is a `memory.state.LayerMemory`.
"""
