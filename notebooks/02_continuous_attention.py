# %% [markdown]
# # 2. Continuous attention
#
# Ordinary attention weighs vectors by a softmax over their scores. The ∞-former's memory holds a
# signal instead of vectors. There, each head and query has one Gaussian density over time, and
# reads the expected signal under it.
#
# This notebook looks at one read: what it returns, why it is exact, and what it costs.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from inf_former_jax import LongTermAttention, LongTermConfig
from inf_former_jax.memory import basis, density, long_term

N, L, E = 64, 256, 8  # basis functions, vectors of a write, channels
cfg = LongTermConfig(num_basis=N, widths=(0.01, 0.05), num_samples=N, gate=False)
rng = np.random.default_rng(0)
walk = np.cumsum(rng.normal(size=(1, L, E)), axis=1).astype(np.float32) / 4  # [B=1, L, E]
memory = long_term.write(cfg, long_term.init(cfg, batch=1, dim=E), walk)

# %% [markdown]
# ## A narrow density reads a place, a wide one an average
#
# `z(μ, σ²) = ∫ p(t) x̄(t) dt` with `p = N(μ, σ²)`. Below, μ moves along the memory.


# %%
def read(mean, var):
    """E_p[x̄(t)] by the closed form: E_p[ψ_j] = N(μ; loc_j, σ² + scale_j²)."""
    var = jnp.broadcast_to(var, jnp.shape(mean))
    return basis.expectation(cfg.basis, mean, var) @ memory.coeffs[0]


grid = jnp.linspace(0, 1, 300)
signal = long_term.signal(cfg, memory, grid)[0, :, 0]
figure, axes = plt.subplots(figsize=(7, 3.2), constrained_layout=True)
axes.plot(grid, signal, color="0.5", label="the signal x̄(t)")
for color, scale in zip(("C0", "C1", "C3"), (0.01, 0.05, 0.3), strict=True):
    axes.plot(grid, read(grid, scale**2)[:, 0], color=color, label=f"read with σ = {scale}")
axes.set(title="a narrow density reads a place, a wide one an average", xlabel="μ")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## The closed form is the integral
#
# The basis functions are Gaussian densities, and so is p. The integral of their product is a
# Gaussian again, so nothing is sampled.

# %%
mean, var = 0.6, 0.05**2
line = np.linspace(-1, 3, 200_001)
p = np.exp(-0.5 * (line - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)
along = basis.evaluate(cfg.basis, line) @ np.asarray(memory.coeffs[0], np.float64)
quadrature = (p[:, None] * along).sum(0) * (line[1] - line[0])
closed = np.asarray(read(mean, var))
print(f"largest difference from quadrature: {np.abs(closed - quadrature).max():.1e}")
assert np.allclose(closed, quadrature, atol=1e-5)

# %% [markdown]
# ## Two numbers a query
#
# A query q has N scores `s = C W_K q / √K`. Two learned vectors reduce them to the density,
# `μ = sigmoid(w_μ · s)` and `σ² = softplus(w_σ · s)`. The layer never forms the keys `C W_K`: it
# reduces first, since `w · (C W_K q) = q · (W_Kᵀ Cᵀ w)`. Both ways give the same densities.

# %%
H, T, K = 2, 5, 4  # heads, queries, head width
layer = LongTermAttention(cfg)
q = jnp.asarray(rng.normal(size=(1, H, T, K), scale=20.0), jnp.float32)  # [B, H, T, K]
params = layer.init(jax.random.key(0), q, memory)
context, _, info = layer.apply(params, q, memory)  # context [B, T, E]

weights = params["params"]["read"]
keys = jnp.einsum("bne,ehk->bhnk", memory.coeffs, weights["key"])
scores = jnp.einsum("bhtk,bhnk->bhtn", q, keys) / K**0.5  # N of them for every head and query
literal = jax.nn.sigmoid(scores @ weights["mu"]), jax.nn.softplus(scores @ weights["sigma"])
for name, ours, paper in zip(("μ", "σ²"), info["density"], literal, strict=True):
    print(f"{name} {ours.shape}: largest difference {np.abs(ours - paper).max():.1e}")
    assert np.allclose(ours, paper, atol=1e-5)

# %% [markdown]
# ## What training can move
#
# The gradient of a read by its density has a closed form too. It is the covariance, under p, of
# what is read with the density's sufficient statistics `(t, t²)`. Autodiff of the closed form gives
# the same. Here it is for μ, whose derivative is `Cov_p(x̄, t) / σ²`.

# %%
by_mean = np.asarray(jax.jacobian(read)(mean, var))
product = (p[:, None] * along * line[:, None]).sum(0) * (line[1] - line[0])
covariance = product - quadrature * mean
print(f"largest difference of the gradient: {np.abs(by_mean - covariance / var).max():.1e}")
assert np.allclose(by_mean, covariance / var, atol=1e-3)

# %% [markdown]
# A density much wider than the signal reads an average wherever it stands, so the gradient by μ is
# nearly 0 there. The KL regulariser `KL(N(μ, σ²) ‖ N(μ, σ_0²))` pulls σ towards σ_0.

# %%
scales = np.geomspace(0.005, 1.0, 200).astype(np.float32)
slope = jnp.linalg.norm(jax.vmap(lambda s: jax.jacobian(read)(mean, s**2))(scales), axis=-1)
penalty = density.kl(density.GaussianDensity(jnp.full_like(scales, mean), scales**2), 0.05)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
axes[0].loglog(scales, slope)
axes[0].set(title="a wide density learns little about its place", ylabel="|∂z/∂μ|", xlabel="σ")
axes[1].loglog(scales, penalty + 1e-4)
axes[1].set(title="the regulariser is least at σ_0 = 0.05", ylabel="KL in nats", xlabel="σ")
plt.show()
