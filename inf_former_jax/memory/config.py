"""The constants of a long-term memory, and how its writes contract the past (paper §3.1, §3.2)."""

import dataclasses
from typing import Annotated, Literal

from inf_former_jax.fields import Basis as NumBasis
from inf_former_jax.fields import Checked, Count, Fraction, Natural, NonEmpty, Positive, Range
from inf_former_jax.memory.basis import (
    Basis,
    check_widths,
    fourier_basis,
    gaussian_basis,
    rectangular_basis,
)
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class LongTermConfig(Checked):
    """Constants of one long-term memory. The defaults are the paper's for sorting (SPEC §5).

    Raises:
        ValueError: on construction, for a value that no memory can have.
    """

    num_basis: NumBasis = 512
    """N, number of basis functions; a multiple of the number of widths of Gaussian ones, odd for
    Fourier's."""
    functions: Literal["gaussian", "rectangular", "fourier"] = "gaussian"
    """ψ, the basis. gaussian: Gaussian densities (paper). rectangular: 1 on one of N equal cells.
    fourier: a constant, and cosines and sines of period 1."""
    widths: NonEmpty[Positive] = (0.01, 0.05)
    """Standard deviations of Gaussian basis functions, in units of the whole signal."""
    fit: Literal["points", "intervals"] = "points"
    """How vectors become coefficients. points: they sit at times, and a ridge regression goes near
    them (paper). intervals: each covers its own part of the time, and nothing is lost but detail
    that the basis cannot hold."""
    ridge: Positive = 1.0
    """λ of the ridge regression."""
    tau: Fraction = 0.75
    """τ of fixed contraction: the part of [0, 1] that the past is squeezed into."""
    num_samples: Count = 512
    """M, locations at which a further write reads the old signal."""
    padding: bool = True
    """Pin the signal to zero outside [0, 1], as published. Periodic functions cannot be."""
    sticky: bool = False
    """Read the old signal where attention fell, instead of on a uniform grid (paper §3.3)."""
    locations: Literal["quantile", "draw"] = "quantile"
    """Sticky locations: deterministic quantiles, or the published random draws."""
    bins: Count = 128
    """D, bins of the salience histogram. Cells that are kept have one each."""
    min_var: Positive = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    prior_scale: Positive = 0.05
    """σ_0 of the KL regulariser."""
    prior_mean: Annotated[float, Range()] | None = None
    """μ_0 of the KL regulariser; None leaves the mean free."""
    gate: bool = True
    """Smooth what is written by `X ⊙ sigmoid(conv1d(X))` (as the published code; SPEC §3)."""
    unit_writes: bool = False
    """Each vector is scaled to a root mean square of 1 before it is written. In a pretrained model
    the first token of a text may be many times as long as others, which one cell would then
    consist of."""
    contraction: Literal["fixed", "power", "doubling", "kept"] = "fixed"
    """How a row's k-th further write makes room. fixed: τ_k = tau (paper). power: τ_k =
    (k/(k+1))^power. doubling, for intervals on equal cells: cells are averaged in pairs where all
    are full, and moved where they are not, so that segments do not run into each other. kept, for
    the same: tau of the cells stay as they are, and the others are dropped. What stays is what
    attention fell on if the memory is sticky, and else the newest."""
    power: Positive = 1.0
    """p of power contraction: 1 weighs all history equally, more leans to the recent."""
    horizon: Count = 64
    """Power contraction: from this further write on, τ_k no longer changes."""
    max_operator_mib: Count = 256
    """Largest size of all operators together, in MiB; larger ones are refused."""
    density: Literal["gaussian", "sparsemax", "gibbs"] = "gaussian"
    """Where a query looks. gaussian: one place, by two numbers (paper). sparsemax: one place, by a
    parabola that is 0 outside of its support (continuous sparsemax). gibbs: wherever the signal is
    like what it asks for, by a softmax over cells of the signal."""
    content_heads: Natural = 0
    """How many heads of a layer, the first ones, read by content (gibbs) beside the others."""
    cells: Natural = 0
    """R, on how many equal cells the signal is read by content; 0 = N. The rectangular basis has N
    of its own."""
    temperature: Positive = 1.0
    """What scores of content are divided by, beside √K; more looks at more places."""
    learn_temperature: bool = False
    """Reading by content: a factor of the temperature for each head, which begins at 1."""
    age_bias: Literal["none", "linear", "cells"] = "none"
    """Reading by content: what a head adds to the scores for the age of a cell, which content
    cannot tell. linear: a learned slope; cells: a learned number for each cell."""
    turn_queries: bool = False
    """Reading by content: a learned K×K matrix for each head between the layer's queries and the
    memory. It begins as the identity and noise of the same size, so that heads differ; without
    noise where projections = attention, whose heads do."""
    learn_worth: bool = False
    """Reading by content, of a sticky memory whose cells are kept: a learned vector w of E numbers.
    w·x of what a cell holds is added to the cell's scores in every head, and the cells stay of
    which it is largest. So what stays does not depend on what was looked for so far."""
    unit_cells: bool = False
    """Reading by content: each cell is scaled to a root mean square of 1 before the memory's own
    matrices project it. Averages of unlike vectors are short, and so may a layer's inputs be; a
    softmax over short keys looks everywhere alike, and is slow to learn anything else."""
    projections: Literal["own", "attention"] = "own"
    """Reading by content: keys, values and output by matrices of the memory's own, or by those of
    the layer's attention. The latter needs no training, so a frozen model can read its memory."""
    joined: bool = False
    """Reading by content: the cells are further keys and values in the softmax of local attention,
    so that memory and window compete. False: the memory's context is added."""
    read: Literal["chunks", "kernel"] = "chunks"
    """How queries read. chunks: compiled by XLA. kernel: a Pallas kernel for GPUs (CUDA, ROCm),
    after `import inf_former_jax.contrib.pallas_read`; other devices interpret it, slowly."""

    def __post_init__(self):
        super().__post_init__()
        self._check_basis()
        self._check_contraction()
        self._check_density()

    def _check_basis(self):
        """Refuse a basis that cannot be, and what it would ignore."""
        if self.functions == "gaussian":
            check_widths(self.num_basis, self.widths)
            return
        self._refuse_ignored(("widths",), f"functions = {self.functions}")
        if self.functions == "fourier":
            fourier_basis(self.num_basis)
            found = "True with functions = fourier"
            require(not self.padding, "padding", found, "False")
        else:
            self._refuse_ignored(("padding",), f"functions = {self.functions}")
        if self.fit == "intervals":
            self._refuse_ignored(("ridge",), f"functions = {self.functions} and fit = intervals")

    def _check_contraction(self):
        """Refuse what a contraction, a fit, or a memory that is not sticky would ignore."""
        of_others = {"fixed": ("power", "horizon"), "power": ("tau",), "kept": ("power", "horizon")}
        ignored = of_others.get(self.contraction, ("tau", "power", "horizon"))
        self._refuse_ignored(ignored, f"contraction = {self.contraction}")
        if not self.sticky:
            self._refuse_ignored(("locations",), "a memory that is not sticky")
        if self.fit == "intervals" and not self.sticky:
            why = "fit = intervals and a memory that is not sticky"
            self._refuse_ignored(("num_samples",), why)
        if not self.tabled:
            why = "functions = rectangular and fit = intervals"
            self._refuse_ignored(("horizon", "max_operator_mib"), why)
        if self.contraction in ("doubling", "kept"):
            found = f"{self.contraction} with functions = {self.functions} and fit = {self.fit}"
            accepted = "fixed, power, or functions = rectangular and fit = intervals"
            require(not self.tabled, "contraction", found, accepted)
        if self.contraction == "kept":
            require_kept(self.tau, self.num_basis, "tau", "num_basis")
            self._refuse_ignored(("num_samples", "locations", "bins"), "contraction = kept")
            return
        if self.contraction == "doubling":
            self._check_doubling()
            return
        last = self.tau_of(self.horizon)
        accepted = "a power with 0 < τ_k < 1 for every k up to horizon"
        require(0 < self.tau_of(1) <= last < 1, "power", self.power, accepted)

    def _check_doubling(self):
        """Refuse cells that make no pairs."""
        require(not self.sticky, "contraction", "doubling of a sticky memory", "fixed or power")
        fits = self.num_basis & (self.num_basis - 1) == 0
        accepted = "a power of two with contraction = doubling"
        require(fits, "num_basis", self.num_basis, accepted)

    def _check_density(self):
        """Refuse ways to read by content where nothing is, and what it would ignore."""
        by_content = self.density == "gibbs" or self.content_heads > 0
        if self.density == "gibbs":
            self._refuse_ignored(("content_heads",), "density = gibbs, where every head is one")
            self._refuse_ignored(("prior_scale", "prior_mean"), "density = gibbs, which has none")
        if not by_content:
            self._refuse_ignored(_OF_CONTENT, "no head that reads by content")
        if self.read == "kernel":
            fits = self.density == self.functions == "gaussian" and not by_content
            found = "kernel with another density or basis"
            require(fits, "read", found, "kernel with Gaussian densities on a Gaussian basis")
        if self.cells:
            found = f"{self.cells} with num_basis {self.num_basis}"
            exact = self.functions == "rectangular"
            require(not exact, "cells", f"{found} rectangular functions", "0 there")
            require(self.cells >= self.num_basis, "cells", found, "0 or at least num_basis")
        if self.learn_worth:
            found = f"True with contraction {self.contraction} and sticky {self.sticky}"
            fits = self.keeps_ages and self.density == "gibbs"
            accepted = "False, or a sticky memory of kept cells with density = gibbs"
            require(fits, "learn_worth", found, accepted)
        if self.joined:
            found = f"True with content_heads {self.content_heads}"
            require(self.density == "gibbs", "joined", found, "True with density = gibbs")
        if self.projections == "attention":
            found = "attention with unit_cells"
            require(not self.unit_cells, "projections", found, "own there")
            found = f"attention with content_heads {self.content_heads}"
            require(self.density == "gibbs", "projections", found, "own, or density = gibbs")

    def _refuse_ignored(self, names: tuple[str, ...], where: str):
        """Refuse another value than the default for fields that would be ignored."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            found = f"{getattr(self, name)} with {where}"
            accepted = f"only its default {defaults[name]} there, since it would be ignored"
            require(getattr(self, name) == defaults[name], name, found, accepted)

    @property
    def basis(self) -> Basis:
        """The basis ψ that the coefficients belong to."""
        if self.functions == "rectangular":
            return rectangular_basis(self.num_basis)
        if self.functions == "fourier":
            return fourier_basis(self.num_basis)
        return gaussian_basis(self.num_basis, self.widths)

    @property
    def tabled(self) -> bool:
        """Whether writes use operators from tables; else they compare edges (`fit.cells`)."""
        return not (self.functions == "rectangular" and self.fit == "intervals")

    @property
    def keeps_ages(self) -> bool:
        """Whether a memory carries the ages of its cells, since no formula knows what it kept."""
        return self.sticky and self.contraction == "kept"

    @property
    def salience_bins(self) -> int:
        """D, bins of the salience histogram: of cells that are kept one for each."""
        return self.num_basis if self.contraction == "kept" else self.bins

    @property
    def new_cells(self) -> int:
        """How many cells a write fills with contraction = kept."""
        return round(self.num_basis * (1 - self.tau))

    @property
    def content_cells(self) -> int:
        """R, how many cells the signal is read on by content."""
        return self.cells or self.num_basis

    def num_content_heads(self, heads: int) -> int:
        """How many of a layer's heads read by content."""
        return heads if self.density == "gibbs" else self.content_heads

    @property
    def num_contractions(self) -> int:
        """K, how many different τ_k there are."""
        return self.horizon if self.contraction == "power" else 1

    def tau_of(self, k: int) -> float:
        """τ_k: the k-th further write of a row squeezes the past into [0, τ_k]; k ≥ 1.

        Raises:
            ValueError: contraction = doubling, which has none: `fit.doubling`.
        """
        accepted = "fixed, power or kept, which have a τ_k"
        require(self.contraction != "doubling", "contraction", self.contraction, accepted)
        if self.contraction != "power":
            return self.tau
        k = min(k, self.horizon) if self.tabled else k
        return (k / (k + 1)) ** self.power


#: Fields that only heads that read by content know.
_OF_CONTENT = (
    "cells",
    "temperature",
    "learn_temperature",
    "age_bias",
    "turn_queries",
    "learn_worth",
    "unit_cells",
    "projections",
    "joined",
)


def require_kept(tau: float, cells: int, name: str, of: str) -> None:
    """Refuse a τ by which the cells that a write fills are no whole part of all of them.

    Args:
        name, of: what τ and the number of cells are called where they were given.

    Raises:
        ValueError: τ is not 1 - 1/n, n a divisor of the cells.
    """
    new = round(cells * (1 - tau))
    fits = new > 0 and cells % new == 0 and abs(new - cells * (1 - tau)) < 1e-6 * cells
    found = f"{tau} with {of} {cells} and cells that are kept"
    require(fits, name, found, f"1 - 1/n there, n a divisor of {of}")
