# %% [markdown]
# # A sequence as a signal
#
# The ∞-former remembers a sequence of vectors as a *continuous signal*: a sum of N fixed basis
# functions with N coefficient vectors. However long the past grows, there are N of them. This
# notebook follows one sequence through the memory: fit, further writes, sticky locations, and what
# a head reads. It needs the core packages and matplotlib; on a CPU it runs in seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np

from inf_former_jax.memory import basis, density, long_term, regression

rng = np.random.default_rng(0)
WIDTHS, N, L = (0.01, 0.05), 64, 256

# %% [markdown]
# ## 1. Fit: `Cᵀ = Xᵀ G`
#
# L vectors sit at times (i + ½)/L. Ridge regression on the basis gives the coefficients. The
# operator G depends on the times only, so it is built once, in float64, on the host.

# %%
psi = basis.gaussian_basis(N, WIDTHS)  # N densities: 32 centres × 2 widths
times = regression.first_fit_times(L)
smooth = np.sin(2 * np.pi * 3 * times)
noise = rng.normal(size=L)
X = np.stack([smooth, noise], axis=1)  # [L, 2]

G = regression.ridge_operator(psi, times, ridge=1.0, zeros=regression.first_fit_padding(L))
C = G.T @ X  # [N, 2]
signal = basis.evaluate(psi, times) @ C  # x̄(t) = Cᵀ ψ(t), [L, 2]
error = np.linalg.norm(signal - X, axis=0) / np.linalg.norm(X, axis=0)
print(f"relative error: {error[0]:.3f} of three periods of a sine, {error[1]:.2f} of white noise")

# %% [markdown]
# A smooth sequence survives, white noise is smoothed: N numbers a channel cannot hold L. What
# counts is the *effective degrees of freedom*, the trace of the smoother `ψ(t)ᵀ (F Fᵀ + λI)⁻¹ F`.
# Beyond a point the widths decide it, not N.

# %%
long_times = regression.first_fit_times(1024)
for num_basis, widths in ((64, WIDTHS), (512, WIDTHS), (1024, WIDTHS), (512, (0.005, 0.01))):
    made = basis.gaussian_basis(num_basis, widths)
    operator = regression.ridge_operator(
        made, long_times, 1.0, regression.first_fit_padding(len(long_times))
    )
    degrees = np.trace(basis.evaluate(made, long_times) @ operator.T)
    print(f"N = {num_basis:>4}, widths {widths}: {degrees:.0f} degrees of freedom of 1,024")

# %% [markdown]
# ## 2. Write again: the past contracts
#
# A further write reads the signal at M locations, squeezes them into [0, τ], puts the new vectors
# behind and regresses again. Written as operators it is linear, `C ← A C + G_newᵀ X`, and costs
# the same for ever.

# %%
cfg = long_term.LongTermConfig(num_basis=N, widths=WIDTHS, num_samples=N, tau=0.75)
operators = long_term.operators(cfg, L)
memory = long_term.init(cfg, batch=1, dim=2)
grid = np.linspace(0, 1, 400)
history = []
for _ in range(4):
    memory = long_term.write(cfg, memory, X[None].astype(np.float32), operators=operators)
    history.append(np.asarray(long_term.signal(cfg, memory, grid))[0, :, 0])
print(f"after {int(memory.writes[0])} writes the coefficients are still {memory.coeffs.shape}")

# %% [markdown]
# ## 3. Read: one Gaussian density a head and query
#
# A query does not look at single vectors but at a stretch of time, `p = N(μ, σ²)`. The expected
# signal under p has a closed form, because the basis functions are Gaussian too.

# %%
mean, var = np.float64(0.85), np.float64(0.06**2)
closed = basis.expectation(psi, mean, var) @ np.asarray(memory.coeffs[0], np.float64)
line = np.linspace(-1, 3, 200_001)
p = np.exp(-0.5 * (line - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)
drawn = basis.evaluate(psi, line) @ np.asarray(memory.coeffs[0], np.float64)
quadrature = (p[:, None] * drawn).sum(0) * (line[1] - line[0])
print("closed form", closed, "quadrature", quadrature)
assert np.allclose(closed, quadrature, rtol=1e-6)

# %% [markdown]
# ## 4. Sticky memories: attention decides what keeps its resolution
#
# The mass of last step's densities in D bins steers where the next write samples the past: a
# stretch that was attended to gets more of the samples, so it is contracted less.

# %%
attended = density.GaussianDensity(
    np.full((1, 1, 8), 0.85, np.float32), np.full((1, 1, 8), 0.06**2, np.float32)
)
mass = density.bin_mass(attended, bins=128)
sticky = np.asarray(density.quantile_locations(mass, N))[0]
uniform = density.uniform_locations(N)
inside = [np.mean(np.abs(u - 0.85) < 0.12) for u in (uniform, sticky)]
print(f"samples within two σ of that place: uniform {inside[0]:.2f}, sticky {inside[1]:.2f}")
assert inside[1] > 3 * inside[0]

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), constrained_layout=True)
axes[0].plot(times, X[:, 0], ".", markersize=3, color="0.6", label="vectors")
axes[0].plot(times, signal[:, 0], label="signal of N coefficients")
axes[0].set(title="a sequence becomes a signal", xlabel="t")
axes[0].legend(fontsize=8)
for k, curve in enumerate(history):
    axes[1].plot(grid, curve + 2.5 * k, color="C0", alpha=0.4 + 0.2 * k)
    axes[1].annotate(f"write {k + 1}", (0.005, 2.5 * k + 1.05), fontsize=8)
axes[1].set(title="each write contracts the past to [0, τ]", xlabel="t", yticks=[])
axes[2].plot(grid, history[-1], color="C0", label="memory")
axes[2].fill_between(
    grid, np.exp(-0.5 * (grid - mean) ** 2 / var), alpha=0.3, color="C1", label="a head's density p"
)
axes[2].plot(sticky, np.full(N, -1.25), "|", color="C3", label="sticky samples of the next write")
axes[2].set(title="a query reads E_p[x̄(t)]", xlabel="t")
axes[2].legend(fontsize=8, loc="lower left")
plt.show()
