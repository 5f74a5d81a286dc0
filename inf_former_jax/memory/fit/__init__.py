"""How vectors become coefficients of the signal: one file a way (paper §3.1, §3.2; SPEC §1, §9).

    ridge       as points: vectors sit at times, and a ridge regression goes near them (paper)
    intervals   each vector covers an interval of its own, and the signal is the nearest one
    cells       intervals on the rectangular basis, inside the traced program, without tables
    doubling    the same, averaged in pairs where all cells are full
    kept        the same, but what is old stays as it is or is dropped

Either way a write is linear in what is stored and in what is new.
"""
