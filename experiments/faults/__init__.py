"""Faults on real runs: kills, damage, a full disk, NaN; what is lost, how it is told. A soak."""
