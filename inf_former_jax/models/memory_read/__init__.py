"""How the heads of a layer read its long-term memory (paper §3.1; SPEC §2, §9): one file a way.

    located   a density that two numbers of a query locate, as the paper's Gaussian
    content   a softmax over cells of the signal, by what they hold

`layer` puts them together: a layer may have heads of both.
"""
