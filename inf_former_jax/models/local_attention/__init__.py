"""Attention over [compressed | short-term memory | segment], by content and by position.

    scores   scores of queries and keys, by content and by distance; the table of positions
    rotary   queries and keys that are turned by their place
    causal   attention of whole segments in chunks of queries, with its own backward pass
    cached   attention of single tokens in a segment that is still open, without gradients in mind
    layer    the Linen module: projections of inputs around one of these two

`layer.FUSED` takes further implementations of `causal`; `contrib.fused_attention` adds two.
"""
