"""The paper in naive NumPy float64: what every fast path of the library is held against.

Nothing here has a batch axis: each function treats one row (one document), and a batch is a loop
over rows, so that per-row resets need no masks. Keys, scores and operators are formed in full.
Weights are the published PyTorch ones under their own names (`y = x Wᵀ`). Letters: T queries,
L written vectors, N basis functions, M past samples, H heads, K head width, E = H·K, D bins.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class MemorySettings:
    """Constants of one long-term memory; `locations` None is the uniform grid."""

    num_basis: int
    widths: tuple[float, ...]
    ridge: float
    tau: float
    num_samples: int
    locations: str | None = None  # None | "quantile"
    bins: int = 128
    min_var: float = 1e-6
    prior_scale: float = 0.05
    prior_mean: float | None = None
    padding: bool = True
    sparsemax: bool = False


@dataclass(frozen=True)
class DecoderSettings:
    """Shape of the published decoder; `memory` None is Transformer-XL."""

    num_layers: int
    num_heads: int
    segment_len: int
    mem_len: int
    pre_lnorm: bool = False
    same_length: bool = False
    clamp_len: int = -1
    memory: MemorySettings | None = None


class Basis(NamedTuple):
    """Gaussian densities with centres loc [N] and widths scale [N]."""

    loc: np.ndarray
    scale: np.ndarray


class LongTerm(NamedTuple):
    """One row's memory: coeffs [N, E] (None = empty), salience [D], number of writes."""

    coeffs: np.ndarray | None
    salience: np.ndarray
    writes: int


class Read(NamedTuple):
    """What a read returns: context [T, E]; mean, var and kl [H, T]."""

    context: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    kl: np.ndarray


# §1 A sequence as a continuous signal


def gaussian_basis(num_basis: int, widths) -> Basis:
    """Every centre with every width, centre-major."""
    assert num_basis % len(widths) == 0
    pairs = [
        (centre, width)
        for centre in np.linspace(0, 1, num_basis // len(widths))
        for width in widths
    ]
    loc, scale = np.array(pairs, np.float64).T
    return Basis(loc, scale)


def normal(t, mean, var) -> np.ndarray:
    """N(t; mean, var)."""
    return np.exp(-0.5 * (t - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)


def evaluate(basis: Basis, t) -> np.ndarray:
    """ψ(t): t [...] -> [..., N]."""
    return normal(np.asarray(t)[..., None], basis.loc, basis.scale**2)


def expectation(basis: Basis, mean, var) -> np.ndarray:
    """E_p[ψ] for p = N(mean, var), closed form: [...] -> [..., N]."""
    mean, var = np.asarray(mean)[..., None], np.asarray(var)[..., None]
    return normal(mean, basis.loc, var + basis.scale**2)


def expectation_by_quadrature(basis: Basis, mean: float, var: float, points=40_001) -> np.ndarray:
    """E_p[ψ] as a sum over a grid of ±12 standard deviations: [N]."""
    t = np.linspace(mean - 12 * math.sqrt(var), mean + 12 * math.sqrt(var), points)
    return (normal(t, mean, var)[:, None] * evaluate(basis, t)).sum(0) * (t[1] - t[0])


def sparsemax(t, mean, var) -> np.ndarray:
    """The truncated parabola [-(t-μ)²/(2σ²) - κ]_+, κ = -½ (3/(2σ))^{2/3}."""
    kappa = -0.5 * (1.5 / np.sqrt(var)) ** (2 / 3)
    return np.maximum(-((t - mean) ** 2) / (2 * var) - kappa, 0)


def sparsemax_integral(function, mean: float, var: float, panels: int) -> np.ndarray:
    """∫ p(t) f(t) dt, f: times [P] -> [P, N], by 8 Gauss-Legendre nodes in each of the panels."""
    kappa = -0.5 * (1.5 / math.sqrt(var)) ** (2 / 3)
    half_width = math.sqrt(-2 * kappa * var)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    middles = (np.arange(panels) + 0.5) / panels * 2 - 1
    t = mean + half_width * (middles[:, None] + nodes / panels).ravel()
    return (sparsemax(t, mean, var) * np.tile(weights, panels) * half_width / panels) @ function(t)


def sparsemax_expectation(basis: Basis, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """E_p[ψ] of truncated parabolas by quadrature: [...] -> [..., N]."""
    pairs = zip(np.ravel(mean), np.ravel(var), strict=True)
    r = [sparsemax_integral(lambda t: evaluate(basis, t), *pair, 500) for pair in pairs]
    return np.reshape(r, (*np.shape(mean), len(basis.loc)))


def ridge_operator(basis: Basis, times: np.ndarray, ridge: float) -> np.ndarray:
    """G = Fᵀ (F Fᵀ + λI)⁻¹ [L, N] for all times, those of the padding included."""
    F = evaluate(basis, times).T
    return np.linalg.solve(F @ F.T + ridge * np.eye(len(F)), F).T


def first_fit_grid(length: int) -> np.ndarray:
    """Times of the first fit with the padding on both sides; the central `length` are the data."""
    L = length
    if L % 2 == 0:
        return np.linspace(-0.5 + 1 / (2 * L), 1.5 - 1 / (2 * L), 2 * L)
    return np.linspace(-0.5 + 1 / L, 1.5 - 1 / L, 2 * L - 1)


def first_fit_operator(cfg: MemorySettings, length: int) -> np.ndarray:
    """G [L, N] of a row's first write."""
    basis = gaussian_basis(cfg.num_basis, cfg.widths)
    if not cfg.padding:
        return ridge_operator(basis, (np.arange(length) + 0.5) / length, cfg.ridge)
    left = length // 2
    return ridge_operator(basis, first_fit_grid(length), cfg.ridge)[left : left + length]


def uniform_locations(num: int) -> np.ndarray:
    """u_m = m/M, m = 1..M."""
    return np.arange(1, num + 1) / num


def write_grid(cfg: MemorySettings, length: int) -> tuple[np.ndarray, int]:
    """Times of a later write, [left padding, M past, L new, right padding]; size of the first."""
    L, M = length, cfg.num_samples
    past = cfg.tau * np.arange(1, M + 1) / M
    new = cfg.tau + (1 - cfg.tau) * np.arange(1, L + 1) / L
    # 2L + M in the offset is no slip here: the published operators have it.
    pad = np.linspace(-0.5 + 1 / (2 * L + M), 1.5 - 1 / (2 * L + M), 2 * (L + M))
    left, right = pad[pad < 0], pad[pad > 1]
    if not cfg.padding:
        left = right = pad[:0]
    return np.concatenate([left, past, new, right]), len(left)


def write_operator(cfg: MemorySettings, length: int) -> np.ndarray:
    """G [M + L, N] of every write after the first: rows of the samples, then of the new vectors."""
    times, left = write_grid(cfg, length)
    G = ridge_operator(gaussian_basis(cfg.num_basis, cfg.widths), times, cfg.ridge)
    return G[left : left + cfg.num_samples + length]


def fit(basis: Basis, times: np.ndarray, x: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression of x [L, E] at times [L], without padding: [N, E]."""
    return ridge_operator(basis, times, ridge).T @ x


# §3 Unbounded memory


def empty(cfg: MemorySettings) -> LongTerm:
    """A row that nothing has been written to."""
    return LongTerm(None, np.zeros(cfg.bins), 0)


def signal(cfg: MemorySettings, coeffs: np.ndarray, t) -> np.ndarray:
    """x̄(t) = Cᵀ ψ(t): t [...] -> [..., E]."""
    return evaluate(gaussian_basis(cfg.num_basis, cfg.widths), t) @ coeffs


def write(cfg: MemorySettings, memory: LongTerm, x: np.ndarray, locations=None) -> LongTerm:
    """Contract the old signal and regress it again together with x [L, E]; locations [M]."""
    if memory.coeffs is None:
        return memory._replace(coeffs=first_fit_operator(cfg, len(x)).T @ x, writes=1)
    if locations is None and cfg.locations == "quantile":
        locations = quantile_locations(memory.salience, cfg.num_samples)
    elif locations is None:
        locations = uniform_locations(cfg.num_samples)
    joined = np.concatenate([signal(cfg, memory.coeffs, locations), x])
    coeffs = write_operator(cfg, len(x)).T @ joined
    return memory._replace(coeffs=coeffs, writes=memory.writes + 1)


def gate(weights: Weights, x: np.ndarray) -> np.ndarray:
    """x ⊙ sigmoid(conv1d(x)): row l [E] sees l-1, l, l+1 of this write, zeros beyond; no flip."""
    kernel, bias = weights["mask_net.weight"], weights["mask_net.bias"]
    padded = np.concatenate([0 * x[:1], x, 0 * x[:1]])
    conv = [bias + sum(kernel[:, :, k] @ padded[i + k] for k in range(3)) for i in range(len(x))]
    return x * sigmoid(np.array(conv))


def gated_write(cfg, weights: Weights, memory: LongTerm, x, locations=None) -> LongTerm:
    """Gate, where the weights have one, then write."""
    x = gate(weights, x) if "mask_net.weight" in weights else x
    return write(cfg, memory, x, locations)


def normal_cdf(z) -> np.ndarray:
    """Φ(z), element by element."""
    return np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))(z)


def bin_mass(mean, var, bins: int, where=None) -> np.ndarray:
    """Normalised mass [D] of densities [H, T] in `bins` of [0, 1]; where [T] are real queries."""
    edges = np.linspace(0, 1, bins + 1)
    edges[0], edges[-1] = -1e-6, 1 + 1e-6
    mass = np.zeros(bins)
    for h, t in np.ndindex(*mean.shape):
        if where is None or where[t]:
            mass += np.diff(normal_cdf((edges - mean[h, t]) / math.sqrt(var[h, t])))
    return mass / mass.sum() if mass.sum() > 0 else mass


def quantile_locations(salience: np.ndarray, num: int) -> np.ndarray:
    """Quantiles at (m-½)/M of the histogram [D], linear inside a bin: [M]."""
    if not salience.sum() > 0:
        return uniform_locations(num)
    cumulative = np.concatenate([[0.0], np.cumsum(salience)]) / salience.sum()
    edges = np.linspace(0, 1, len(salience) + 1)
    return np.interp((np.arange(num) + 0.5) / num, cumulative, edges)


def drawn_bins(salience: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Bin of each uniform number: how many cumulative masses do not exceed it."""
    cumulative = np.cumsum(salience) / salience.sum()
    return np.array([(cumulative <= u).sum() for u in uniforms])


def drawn_locations(salience: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Sorted left edges of the drawn bins: salience [D], uniforms [M] -> [M]."""
    if not salience.sum() > 0:
        return uniform_locations(len(uniforms))
    return np.sort(drawn_bins(salience, uniforms) / len(salience))


# §2 Continuous attention


def sigmoid(x) -> np.ndarray:
    """1 / (1 + exp(-x)), written so that it never overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[L, H·K] -> [L, H, K]; channel c = h·K + j."""
    return x.reshape(len(x), heads, -1)


def densities(cfg, weights: Weights, coeffs, q) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [H, T] of each query's density, from the N scores: q [H, T, K]."""
    keys = split_heads(coeffs @ weights["proj_key.weight"].T, len(q))
    scores = np.einsum("htk,nhk->htn", q, keys) / math.sqrt(q.shape[-1])
    mean = sigmoid(scores @ weights["mu.weight"][0])
    var = np.logaddexp(0, scores @ weights["sigma.weight"][0])
    return mean, np.maximum(var, cfg.min_var)


def kl(mean, var, prior_scale: float, prior_mean=None) -> np.ndarray:
    """KL(N(mean, var) ‖ N(prior_mean, prior_scale²)), without the mean's term if it is None."""
    ratio = var / prior_scale**2
    shift = 0.0 if prior_mean is None else ((mean - prior_mean) / prior_scale) ** 2
    return 0.5 * (ratio - np.log(ratio) - 1 + shift)


def read(cfg: MemorySettings, weights: Weights, memory: LongTerm, q: np.ndarray) -> Read:
    """Attend to the memory with projected queries q [H, T, K]; an empty row gives zeros."""
    if memory.coeffs is None:
        zeros = np.zeros(q.shape[:2])
        return Read(np.zeros((q.shape[1], len(weights["attn_out.weight"]))), zeros, zeros, zeros)
    mean, var = densities(cfg, weights, memory.coeffs, q)
    values = split_heads(memory.coeffs @ weights["proj_value.weight"].T, len(q))
    expected = sparsemax_expectation if cfg.sparsemax else expectation
    r = expected(gaussian_basis(cfg.num_basis, cfg.widths), mean, var)
    heads = np.einsum("htn,nhk->thk", r, values).reshape(q.shape[1], -1)
    divergence = kl(mean, var, cfg.prior_scale, cfg.prior_mean)
    return Read(heads @ weights["attn_out.weight"].T, mean, var, divergence)


def remember(cfg: MemorySettings, memory: LongTerm, result: Read, where=None) -> LongTerm:
    """Keep the histogram of this read for the next write; an empty row keeps its zeros."""
    if memory.coeffs is None:
        return memory
    return memory._replace(salience=bin_mass(result.mean, result.var, cfg.bins, where))


# §4 The published decoder


def layer_norm(weights: Weights, x: np.ndarray) -> np.ndarray:
    """LayerNorm over the channels, ε = 1e-5."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights["layer_norm.weight"] + weights["layer_norm.bias"]


def feed_forward(weights: Weights, x: np.ndarray) -> np.ndarray:
    """W₂ relu(W₁ x + b₁) + b₂."""
    hidden = np.maximum(x @ weights["CoreNet.0.weight"].T + weights["CoreNet.0.bias"], 0)
    return hidden @ weights["CoreNet.3.weight"].T + weights["CoreNet.3.bias"]


def relative_embeddings(r_net: np.ndarray, num: int, clamp_len: int) -> np.ndarray:
    """R(d) = r_net [sin(d·f), cos(d·f)] for d = 0..num-1, f_i = 10000^(-2i/dim): [num, E]."""
    distances = np.arange(num)
    distances = np.minimum(distances, clamp_len) if clamp_len > 0 else distances
    angles = distances[:, None] * 10000.0 ** (-np.arange(0, r_net.shape[1], 2) / r_net.shape[1])
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1) @ r_net.T


def relative_attention(cfg, r_net, biases, q, k, v) -> np.ndarray:
    """Attention of q [T, H, K] over k, v [J, H, K], whose last T are the segment: [T, H·K].

    score = ((q+u)·k + (q+w)·R(d)) / √K with d = query time - key time; biases (u, w) [H, K].
    """
    past, heads = len(k) - len(q), []
    R = relative_embeddings(r_net, len(k), cfg.clamp_len).reshape(len(k), *q.shape[1:])
    for i in range(len(q)):
        seen, scores = [], []
        for j in range(len(k)):
            d = past + i - j
            if d < 0 or (cfg.same_length and d >= cfg.mem_len):
                continue
            seen.append(j)
            scores.append(((q[i] + biases[0]) * k[j] + (q[i] + biases[1]) * R[d]).sum(-1))
        scores = np.array(scores) / math.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(0))
        heads.append(np.einsum("jh,jhk->hk", p / p.sum(0), v[seen]).reshape(-1))
    return np.array(heads)


class LayerState(NamedTuple):
    """One row's state in one layer: inputs [≤ fifo, E], newest last, and the long-term memory."""

    fifo: np.ndarray
    long_term: LongTerm | None


class SegmentResult(NamedTuple):
    """One row's results: logits [T, V]; kl [H, T] summed over layers, None where the row is empty;
    reads and layers, one per layer."""

    logits: np.ndarray
    kl: np.ndarray | None
    reads: tuple[Read, ...]
    layers: tuple[LayerState, ...]


def scope(weights: Weights, prefix: str) -> Weights:
    """The weights under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def attend(cfg: DecoderSettings, weights: Weights, biases, x, window) -> tuple:
    """Short-term attention of x [T, E] over [window | x]: output [T, E] and queries [T, H, K]."""
    joined = np.concatenate([window, x])
    joined = layer_norm(weights, joined) if cfg.pre_lnorm else joined
    q, k, v = (
        split_heads(part, cfg.num_heads)
        for part in np.split(joined @ weights["qkv_net.weight"].T, 3, axis=1)
    )
    q = q[len(window) :]
    heads = relative_attention(cfg, weights["r_net.weight"], biases, q, k, v)
    return heads @ weights["o_net.weight"].T, q


def advance(cfg: DecoderSettings, weights: Weights, memory: LongTerm, past, q, where) -> tuple:
    """Write what has left the short-term memory, then read with q [T, H, K]: Read and memory."""
    pending = past[: len(past) - cfg.mem_len] if len(past) > cfg.mem_len else past[:0]
    if len(pending) == cfg.segment_len:
        memory = gated_write(cfg.memory, weights, memory, pending)
    result = read(cfg.memory, weights, memory, q.transpose(1, 0, 2))
    return result, remember(cfg.memory, memory, result, where)


def layer(cfg: DecoderSettings, weights: Weights, biases, x, state: LayerState, where) -> tuple:
    """One layer on x [T, E]: its output, its Read (None without memory) and its next state."""
    attention, feed = scope(weights, "dec_attn."), scope(weights, "pos_ff.")
    window = state.fifo[max(0, len(state.fifo) - cfg.mem_len) :]
    a, q = attend(cfg, attention, biases, x, window)
    result, long_term, kept = None, None, cfg.mem_len
    if cfg.memory is not None:
        ltm = scope(attention, "long_term_attention.")
        result, long_term = advance(cfg, ltm, state.long_term, state.fifo, q, where)
        a, kept = a + result.context, cfg.mem_len + cfg.segment_len
    fifo = np.concatenate([state.fifo, x])
    state = LayerState(fifo[max(0, len(fifo) - kept) :], long_term)
    if cfg.pre_lnorm:
        x = x + a
        return x + feed_forward(feed, layer_norm(feed, x)), result, state
    x = layer_norm(attention, x + a)
    return layer_norm(feed, x + feed_forward(feed, x)), result, state


def fresh(cfg: DecoderSettings, weights: Weights) -> tuple[LayerState, ...]:
    """One row's state before its first segment."""
    dim = weights["word_emb.emb_layers.0.weight"].shape[1]
    long_term = None if cfg.memory is None else empty(cfg.memory)
    return (LayerState(np.zeros((0, dim)), long_term),) * cfg.num_layers


def segment(cfg: DecoderSettings, weights: Weights, tokens, layers, where=None) -> SegmentResult:
    """One row's segment: tokens [T], state of each layer, where [T] are real queries."""
    embedding = weights["word_emb.emb_layers.0.weight"]
    x = embedding[tokens] * math.sqrt(embedding.shape[1])
    biases = weights["r_w_bias"], weights["r_r_bias"]
    reads, states = [], []
    for i, state in enumerate(layers):
        x, result, state = layer(cfg, scope(weights, f"layers.{i}."), biases, x, state, where)
        reads.append(result)
        states.append(state)
    written = cfg.memory is not None and states[0].long_term.writes > 0
    divergence = sum(result.kl for result in reads) if written else None
    return SegmentResult(
        x @ weights["proj_output.weight"].T, divergence, tuple(reads), tuple(states)
    )


def decode(cfg, weights: Weights, segments, resets=None, where=None) -> list[list[SegmentResult]]:
    """Segments of tokens [B, T], resets [W, B] applied before them, where[s] [B, T] real tokens.

    Returns results[segment][row].
    """
    rows = len(segments[0])
    states, results = [fresh(cfg, weights)] * rows, []
    for s, tokens in enumerate(segments):
        results.append([])
        for b in range(rows):
            if resets is not None and resets[s][b]:
                states[b] = fresh(cfg, weights)
            real = None if where is None else where[s][b]
            results[s].append(segment(cfg, weights, tokens[b], states[b], real))
            states[b] = results[s][b].layers
    return results


def mean_kl(results: list[SegmentResult], where=None) -> float:
    """KL of one segment: mean over heads and real queries (where [B, T]) of written rows."""
    terms = [
        row.kl if where is None else row.kl[:, where[b]]
        for b, row in enumerate(results)
        if row.kl is not None
    ]
    return float(np.mean(np.concatenate([t.ravel() for t in terms]))) if terms else 0.0


def random_weights(rng: np.random.Generator, cfg: DecoderSettings, dim, inner, vocab, gate=True):
    """Weights of a decoder with H·K = dim under the published names, `gate` as wanted."""
    E, weights = dim, {}

    def add(name, *shape):
        weights[name] = rng.normal(size=shape) / math.sqrt(shape[-1])

    add("word_emb.emb_layers.0.weight", vocab, dim)
    add("proj_output.weight", vocab, dim)
    add("r_w_bias", cfg.num_heads, E // cfg.num_heads)
    add("r_r_bias", cfg.num_heads, E // cfg.num_heads)
    for i in range(cfg.num_layers):
        attention, feed = f"layers.{i}.dec_attn.", f"layers.{i}.pos_ff."
        add(attention + "qkv_net.weight", 3 * E, dim)
        add(attention + "r_net.weight", E, dim)
        add(attention + "o_net.weight", dim, E)
        add(feed + "CoreNet.0.weight", inner, dim)
        add(feed + "CoreNet.0.bias", inner)
        add(feed + "CoreNet.3.weight", dim, inner)
        add(feed + "CoreNet.3.bias", dim)
        for norm in (attention, feed):
            weights[norm + "layer_norm.weight"] = 1 + 0.1 * rng.normal(size=dim)
            weights[norm + "layer_norm.bias"] = 0.1 * rng.normal(size=dim)
        if cfg.memory is not None:
            ltm = attention + "long_term_attention."
            for name in ("proj_key", "proj_value", "attn_out"):
                add(ltm + name + ".weight", E, E)
            add(ltm + "mu.weight", 1, cfg.memory.num_basis)
            add(ltm + "sigma.weight", 1, cfg.memory.num_basis)
            if gate:
                add(ltm + "mask_net.weight", E, E, 3)
                add(ltm + "mask_net.bias", E)
    return weights
