"""The constants of a long-term memory, and how its writes contract the past (paper §3.1, §3.2)."""

import dataclasses
from typing import Annotated, Literal

from inf_former_jax.fields import Basis, Checked, Count, Fraction, NonEmpty, Positive, Range
from inf_former_jax.memory.basis import GaussianBasis, check_widths, gaussian_basis
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class LongTermConfig(Checked):
    """Constants of one long-term memory. The defaults are the paper's for sorting (SPEC §5).

    Raises:
        ValueError: on construction, for a value that no memory can have.
    """

    num_basis: Basis = 512
    """N, number of basis functions; a multiple of the number of widths."""
    widths: NonEmpty[Positive] = (0.01, 0.05)
    """Standard deviations of the basis functions, in units of the whole signal."""
    ridge: Positive = 1.0
    """λ of the ridge regression."""
    tau: Fraction = 0.75
    """τ of fixed contraction: the part of [0, 1] that the past is squeezed into."""
    num_samples: Count = 512
    """M, locations at which a further write reads the old signal."""
    padding: bool = True
    """Pin the signal to zero outside [0, 1], as published."""
    sticky: bool = False
    """Read the old signal where attention fell, instead of on a uniform grid (paper §3.3)."""
    locations: Literal["quantile", "draw"] = "quantile"
    """Sticky locations: deterministic quantiles, or the published random draws."""
    bins: Count = 128
    """D, bins of the salience histogram."""
    min_var: Positive = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    prior_scale: Positive = 0.05
    """σ_0 of the KL regulariser."""
    prior_mean: Annotated[float, Range()] | None = None
    """μ_0 of the KL regulariser; None leaves the mean free."""
    gate: bool = True
    """Smooth what is written by `X ⊙ sigmoid(conv1d(X))` (as the published code; SPEC §3)."""
    contraction: Literal["fixed", "power"] = "fixed"
    """τ_k of a row's k-th further write: fixed, τ_k = tau (paper); power, (k/(k+1))^power."""
    power: Positive = 1.0
    """p of power contraction: 1 weighs all history equally, more leans to the recent."""
    horizon: Count = 64
    """Power contraction: from this further write on, τ_k no longer changes."""
    max_operator_mib: Count = 256
    """Largest size of all operators together, in MiB; larger ones are refused."""
    read: Literal["chunks", "kernel"] = "chunks"
    """How queries read. chunks: compiled by XLA. kernel: a Pallas kernel for GPUs (CUDA, ROCm),
    after `import inf_former_jax.contrib.pallas_read`; other devices interpret it, slowly."""

    def __post_init__(self):
        super().__post_init__()
        check_widths(self.num_basis, self.widths)
        self._check_contraction()

    def _check_contraction(self):
        """Refuse a tau without fixed contraction; power or horizon without power contraction."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("tau",) if self.contraction == "power" else ("power", "horizon"):
            found = f"{getattr(self, name)} with contraction = {self.contraction}"
            accepted = f"only its default {defaults[name]} there, since it would be ignored"
            require(getattr(self, name) == defaults[name], name, found, accepted)
        last = self.tau_of(self.num_contractions)
        accepted = "a power with 0 < τ_k < 1 for every k up to horizon"
        require(0 < self.tau_of(1) <= last < 1, "power", self.power, accepted)

    @property
    def basis(self) -> GaussianBasis:
        """The basis ψ that the coefficients belong to."""
        return gaussian_basis(self.num_basis, self.widths)

    @property
    def num_contractions(self) -> int:
        """K, how many different τ_k there are."""
        return 1 if self.contraction == "fixed" else self.horizon

    def tau_of(self, k: int) -> float:
        """τ_k: the k-th further write of a row squeezes the past into [0, τ_k]; k ≥ 1."""
        if self.contraction == "fixed":
            return self.tau
        k = min(k, self.horizon)
        return (k / (k + 1)) ** self.power
