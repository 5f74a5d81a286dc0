# %% [markdown]
# # 1. A sequence as a signal
#
# The ∞-former remembers a sequence of vectors as a *continuous signal*: a sum of N fixed basis
# functions with N coefficient vectors. N stays the same however long the past grows.
#
# This notebook takes one sequence through the memory. It is fitted, written to three more times,
# and read. It needs the core packages and matplotlib, and runs in seconds on a CPU.

# %%
import matplotlib.pyplot as plt
import numpy as np

from inf_former_jax.memory import basis, density, long_term, regression

WIDTHS, N, L = (0.01, 0.05), 64, 256

# %% [markdown]
# ## Fit: `Cᵀ = Xᵀ G`
#
# L vectors sit at the times (i + ½)/L. Ridge regression on the basis gives the coefficients C. The
# operator G depends on the times only. It is built once, in float64, on the host.

# %%
psi = basis.gaussian_basis(N, WIDTHS)  # N densities: 32 centres × 2 widths
times = regression.first_fit_times(L)
smooth = np.sin(2 * np.pi * 3 * times)
noise = np.random.default_rng(0).normal(size=L)
X = np.stack([smooth, noise], axis=1)  # [L, 2]: two channels

G = regression.ridge_operator(psi, times, ridge=1.0, zeros=regression.first_fit_padding(L))
C = G.T @ X  # [N, 2]
signal = basis.evaluate(psi, times) @ C  # x̄(t) = Cᵀ ψ(t), [L, 2]
error = np.linalg.norm(signal - X, axis=0) / np.linalg.norm(X, axis=0)
print(f"relative error: {error[0]:.3f} for three periods of a sine, {error[1]:.2f} for white noise")
assert error[0] < 0.05 and error[1] > 0.5

# %% [markdown]
# The smooth sequence survives. White noise is smoothed away, because N numbers a channel cannot
# hold L of them.
#
# ## Capacity is set by the widths
#
# The *effective degrees of freedom* say how many independent numbers the signal can hold. They are
# the trace of the smoother `ψ(t)ᵀ (F Fᵀ + λI)⁻¹ F`. Beyond a point, more basis functions of the
# same widths add nothing. Narrower ones do.

# %%
many_times = regression.first_fit_times(1024)
padding = regression.first_fit_padding(1024)
sizes, capacity = (32, 64, 128, 256, 512, 1024), {}
for widths in (WIDTHS, (0.005, 0.01)):
    capacity[widths] = []
    for size in sizes:
        functions = basis.gaussian_basis(size, widths)
        operator = regression.ridge_operator(functions, many_times, 1.0, padding)
        capacity[widths].append(np.trace(basis.evaluate(functions, many_times) @ operator.T))
    print(f"widths {widths}: {capacity[widths][-1]:.0f} degrees of freedom at N = 1,024")

# %%
figure, axes = plt.subplots(figsize=(5.5, 3.2), constrained_layout=True)
for widths, degrees in capacity.items():
    axes.plot(sizes, degrees, "o-", label=f"widths {widths}")
axes.set(title="past 512 functions only narrower ones hold more", xlabel="N", xscale="log")
axes.set(ylabel="degrees of freedom of 1,024 tokens", ylim=(0, None))
axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown]
# ## Write again, then read
#
# A further write reads the signal at M times and squeezes these samples into [0, τ]. The new
# vectors take their place in [τ, 1], and the regression is done again. Written as operators this is
# linear, `C ← A C + G_newᵀ X`. It costs the same for ever.
#
# A query does not look up single vectors. It looks at a stretch of time, a Gaussian density p, and
# reads the expected signal under p.

# %%
cfg = long_term.LongTermConfig(num_basis=N, widths=WIDTHS, num_samples=N, tau=0.75)
operators = long_term.operators(cfg, L)
memory = long_term.init(cfg, batch=1, dim=2)
grid, history = np.linspace(0, 1, 400), []
for _ in range(4):
    memory = long_term.write(cfg, memory, X[None].astype(np.float32), operators=operators)
    history.append(np.asarray(long_term.signal(cfg, memory, grid))[0, :, 0])
print(f"after {int(memory.writes[0])} writes the coefficients are still {memory.coeffs.shape}")

mean, var = 0.85, 0.06**2
attended = density.GaussianDensity(*(np.full((1, 1, 1), v, np.float32) for v in (mean, var)))
samples = density.quantile_locations(density.bin_mass(attended, bins=128), N)[0]

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), constrained_layout=True)
axes[0].plot(times, X[:, 0], ".", markersize=3, color="0.6", label="256 vectors")
axes[0].plot(times, signal[:, 0], label="signal of 64 coefficients")
axes[0].set(title="a sequence becomes a signal", xlabel="t", ylim=(-1.2, 1.6))
axes[0].legend(fontsize=8, loc="upper right")
for k, curve in enumerate(history):
    axes[1].plot(grid, curve + 2.5 * k, color="C0", alpha=0.4 + 0.2 * k)
    axes[1].annotate(f"write {k + 1}", (0.005, 2.5 * k + 1.05), fontsize=8)
axes[1].set(title="each write contracts the past to [0, τ]", xlabel="t", yticks=[])
p = np.exp(-0.5 * (grid - mean) ** 2 / var)
axes[2].plot(grid, history[-1], color="C0", label="memory")
axes[2].fill_between(grid, p, alpha=0.3, color="C1", label="a query's density p")
axes[2].plot(samples, np.full(N, -1.3), "|", color="C3", label="sticky samples of the next write")
axes[2].set(title="a query reads E_p[x̄(t)]", xlabel="t", ylim=(-1.45, 1.9))
axes[2].legend(fontsize=8, loc="upper left")
plt.show()
