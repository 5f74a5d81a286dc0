"""Attention densities over the memory's time (paper §3.1, §3.3; SPEC §2, §9): one file a density.

    kind        the protocol that each density answers
    gaussian    N(t; μ, σ²), the paper's; the KL from a prior
    sparsemax   a truncated parabola: attention that ends
    gibbs       ∝ exp(q·K(t)): content decides where to look
    mixed       both in one layer
    salience    how much attention falls on parts of time
    locations   where a write reads the old signal: a grid, or quantiles of the salience

To add a density that is located by two numbers a query, as the Gaussian is: its file here, its name
in `config.LongTermConfig.density`, and its line in `LOCATED`.
"""

from inf_former_jax.memory.density.gaussian import GaussianDensity as GaussianDensity
from inf_former_jax.memory.density.gaussian import kl as kl
from inf_former_jax.memory.density.gibbs import GibbsDensity as GibbsDensity
from inf_former_jax.memory.density.kind import Density as Density
from inf_former_jax.memory.density.kind import LocatedDensity as LocatedDensity
from inf_former_jax.memory.density.locations import distinct_bins as distinct_bins
from inf_former_jax.memory.density.locations import drawn_locations as drawn_locations
from inf_former_jax.memory.density.locations import quantile_locations as quantile_locations
from inf_former_jax.memory.density.locations import random_locations as random_locations
from inf_former_jax.memory.density.locations import uniform_locations as uniform_locations
from inf_former_jax.memory.density.mixed import MixedDensity as MixedDensity
from inf_former_jax.memory.density.salience import bin_mass as bin_mass
from inf_former_jax.memory.density.salience import bin_sum as bin_sum
from inf_former_jax.memory.density.salience import bins_of_cells as bins_of_cells
from inf_former_jax.memory.density.salience import interval_sum as interval_sum
from inf_former_jax.memory.density.salience import normalise as normalise
from inf_former_jax.memory.density.sparsemax import SparsemaxDensity as SparsemaxDensity

#: Densities that a μ and a σ² locate, by their name in `LongTermConfig.density`.
LOCATED = {"gaussian": GaussianDensity, "sparsemax": SparsemaxDensity}
