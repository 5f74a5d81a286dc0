"""The oracle itself against the published arrays, so that it can be trusted where they end."""

import dataclasses

import numpy as np
import pytest

from tests import golden, oracle
from tests.golden import relative_error

DECODERS = ["f_memtransformer_0", "f_memtransformer_1"] + [f"g_transformerxl_{i}" for i in range(3)]


def settings(arrays, **changes) -> oracle.MemorySettings:
    """The memory of a golden file."""
    fields = {
        "num_basis": int(arrays["num_basis"]),
        "widths": tuple(arrays["sigmas"]),
        "ridge": float(arrays["ridge"]),
        "tau": float(arrays.get("tau", 0.5)),
        "num_samples": int(arrays.get("nb_samples", 1)),
    }
    return oracle.MemorySettings(**(fields | changes))


def decoder_settings(cfg) -> oracle.DecoderSettings:
    """The decoder of a golden file, from the arrays under `cfg.`."""
    memory = settings(cfg | {"num_basis": cfg["basis"]}) if cfg["ltm"] else None
    optional = {k: cfg[k].item() for k in ("pre_lnorm", "same_length", "clamp_len") if k in cfg}
    return oracle.DecoderSettings(
        num_layers=int(cfg["n_layer"]),
        num_heads=int(cfg["n_head"]),
        segment_len=int(cfg["tgt_len"]),
        mem_len=int(cfg["mem_len"]),
        memory=memory,
        **optional,
    )


def rows(function, *batches) -> np.ndarray:
    """A function of one row over the rows of batches [B, ...]."""
    return np.stack([function(*row) for row in zip(*batches, strict=True)])


def check(actual, expected, tolerance=1e-9):
    """The one comparison of this file."""
    assert relative_error(actual, expected) <= tolerance


def test_basis():
    arrays = golden.load("a_basis")
    basis = oracle.Basis(arrays["gauss_mu"], arrays["gauss_sigma"])
    check(oracle.evaluate(basis, arrays["t"][:, 0]), arrays["gauss_evaluate"])
    mean, var = arrays["query_mu"][:, 0], arrays["query_sigma_sq"][:, 0]
    expected = arrays["gauss_integrate_psi_gaussian"]
    check(oracle.expectation(basis, mean, var), expected)
    check(
        rows(lambda m, v: oracle.expectation_by_quadrature(basis, m, v), mean, var),
        expected,
    )


@pytest.mark.parametrize("case", range(6))
def test_first_fit(case):
    arrays = golden.under(golden.load("c_ridge"), f"c{case}_")
    cfg = settings(arrays)
    length = int(arrays["length"])
    basis = oracle.gaussian_basis(cfg.num_basis, cfg.widths)
    check(basis.loc, arrays["basis_mu"])
    check(basis.scale, arrays["basis_sigma"])
    check(oracle.first_fit_grid(length), arrays["positions_padded"])
    check(oracle.first_fit_operator(cfg, length), arrays["G"])
    check(
        rows(lambda x: oracle.write(cfg, oracle.empty(cfg), x.T).coeffs, arrays["X"]), arrays["B"]
    )


def test_first_fit_at_the_size_of_the_paper():
    arrays = golden.load("c_ridge_large")
    cfg = settings(arrays)
    check(oracle.first_fit_operator(cfg, 1024)[arrays["rows"]], arrays["G_rows"], 1e-7)
    coeffs = oracle.write(cfg, oracle.empty(cfg), arrays["X"][0].T).coeffs
    check(coeffs, arrays["B"][0], 1e-7)
    reconstruction = oracle.signal(cfg, coeffs, arrays["reconstruction_t"])
    check(reconstruction.T, arrays["reconstruction"][0], 1e-7)


@pytest.mark.parametrize("file", range(4))
def test_writes_at_uniform_locations(file):
    arrays = golden.load(f"d_update_{file}")
    cfg = settings(arrays)
    tolerance = 1e-7 if cfg.num_basis == 512 else 1e-9
    times, left = oracle.write_grid(cfg, int(arrays["length"]))
    check(times, arrays["positions_inf_padded"])
    assert left == arrays["n_pad_left"]
    memories = [oracle.empty(cfg) for _ in arrays["x_0"]]
    for s in range(int(arrays["n_steps"])):
        xs = arrays[f"x_{s}"]
        memories = [oracle.write(cfg, m, x.T) for m, x in zip(memories, xs, strict=True)]
        check(np.stack([m.coeffs for m in memories]), arrays[f"B_{s}"], tolerance)
        assert all(m.writes == s + 1 for m in memories)


def test_sticky_draws():
    arrays = golden.load("h_sticky_update")
    cfg = settings(arrays)
    mean, var = arrays["attn_mu"], arrays["attn_sigma"] ** 2
    p = rows(lambda m, v: oracle.bin_mass(m[None], v[None], 128), mean, var)
    check(p, arrays["p"])
    locations = rows(oracle.drawn_locations, p, arrays["uniforms"].T)
    np.testing.assert_array_equal(locations, arrays["sample_positions"])
    np.testing.assert_array_equal(
        rows(oracle.drawn_bins, p, arrays["uniforms"].T), arrays["bin_draws"].T
    )
    for b, coeffs in enumerate(arrays["B_past"]):
        memory = oracle.LongTerm(coeffs, p[b], 1)
        written = oracle.write(cfg, memory, arrays["x"][b].T, locations[b])
        check(written.coeffs, arrays["B_new"][b])


def attention_rows(name):
    """Inputs of the attention files, one row at a time: x [W, B, L, E], q [W, B, H, T, K]."""
    arrays = golden.load(name)
    x = np.stack([arrays[f"k_{s}"] for s in range(3)])
    q = np.stack([arrays[f"q_{s}"] for s in range(3)])
    if name.startswith("e"):
        x, q = x.swapaxes(1, 2), q.transpose(0, 2, 1, 3)
        q = q.reshape(*q.shape[:3], int(arrays["n_head"]), -1).swapaxes(2, 3)
    return arrays, x, q


def test_sparsemax():
    arrays = golden.load("b_continuous_attention")
    loc, scale = (
        np.concatenate([arrays[f"{p}_{k}"] for p in ("psi1", "psi2")]) for k in ("mu", "sigma")
    )
    r = oracle.sparsemax_expectation(oracle.Basis(loc, scale), arrays["mu"], arrays["sigma_sq"])
    check(r, arrays["sparsemax_gauss2_r"])


@pytest.mark.parametrize("file", range(5))
def test_long_term_attention(file):
    arrays, x, q = attention_rows(f"e_ltm_forward_{file}")
    prior = float(arrays["kl_mu_0"])
    cfg = settings(
        arrays,
        prior_scale=float(arrays["kl_sigma_0"]),
        prior_mean=None if np.isnan(prior) else prior,
        sparsemax=str(arrays["norm"]) == "sparsemax",
    )
    weights = golden.under(arrays, "param.")
    for b in range(x.shape[1]):
        memory = oracle.empty(cfg)
        for s in range(3):
            memory = oracle.gated_write(cfg, weights, memory, x[s, b])
            result = oracle.read(cfg, weights, memory, q[s, b])
            check(memory.coeffs, arrays[f"B_{s}"][b])
            check(result.context, arrays[f"context_{s}"][:, b])
            check(result.mean, arrays[f"mu_{s}"][b])
            check(result.var, arrays[f"sigma_sq_{s}"][b])
            if arrays["use_kl"]:
                check(result.kl.ravel(), arrays[f"kl_reg_{s}"][b])


def test_long_term_attention_of_gpt2():
    arrays, x, q = attention_rows("h_gpt2_forward")
    # The published test of the prior mean is inverted: -1 adds the mean's term.
    cfg = settings(arrays, min_var=1e-4, prior_mean=float(arrays["kl_mu_0"]))
    weights = golden.under(arrays, "param.")
    for b in range(x.shape[1]):
        memory = oracle.empty(cfg)
        for s in range(3):
            locations = arrays[f"sample_positions_{s}"][b] if s else None
            if s:
                check(memory.salience, arrays[f"p_{s}"][b])
            memory = oracle.gated_write(cfg, weights, memory, x[s, b], locations)
            result = oracle.read(cfg, weights, memory, q[s, b])
            memory = oracle.remember(cfg, memory, result)
            check(memory.coeffs, arrays[f"B_{s}"][b])
            check(result.context, arrays[f"context_{s}"][b])
            check(result.mean.ravel(), arrays[f"attn_mu_{s}"][b])
            check(np.sqrt(result.var).ravel(), arrays[f"attn_sigma_{s}"][b])
            check(result.kl.ravel(), arrays[f"kl_reg_{s}"][b])


def check_segment(arrays, s, results):
    """Hidden states or logits, densities, coefficients and KL of one segment of all rows."""
    logits = np.stack([r.logits for r in results], axis=1)
    last = f"hidden_{s}" not in arrays
    output = arrays["param.proj_output.weight"].T
    check(logits, arrays["logits"] if last else arrays[f"hidden_{s}"] @ output)
    assert (f"kl_reg_{s}" in arrays) == (results[0].kl is not None)
    for i in range(len(results[0].layers) if f"kl_reg_{s}" in arrays else 0):
        at = f"_seg{s}_layer{i}"
        check(np.stack([r.reads[i].mean for r in results]), arrays["mu" + at])
        check(np.stack([r.reads[i].var for r in results]), arrays["sigma_sq" + at])
        check(np.stack([r.layers[i].long_term.coeffs for r in results]), arrays["B" + at])
    if f"kl_reg_{s}" in arrays:
        check(np.stack([r.kl.ravel() for r in results]), arrays[f"kl_reg_{s}"])


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name):
    arrays = golden.load(name)
    cfg = decoder_settings(golden.under(arrays, "cfg."))
    tokens = [arrays[f"tokens_{s}"].T for s in range(len(arrays["cfg.seg_lens"]))]
    results = oracle.decode(cfg, golden.under(arrays, "param."), tokens)
    for s, segment in enumerate(results):
        check_segment(arrays, s, segment)
    for i in range(cfg.num_layers):
        fifo = np.stack([r.layers[i].fifo for r in results[-1]], axis=1)
        check(fifo, arrays[f"final_mems_{i}"])
    if cfg.memory is not None:
        excess = arrays["total_loss"] - arrays["loss"]
        check(arrays["cfg.kl_m"] * oracle.mean_kl(results[-1]), excess)


def test_a_reset_row_starts_afresh():
    """Resetting row 1 before segment 1 leaves row 0 as it was and makes row 1 a new document."""
    arrays = golden.load("f_memtransformer_0")
    weights = golden.under(arrays, "param.")
    cfg = decoder_settings(golden.under(arrays, "cfg."))
    cfg = dataclasses.replace(cfg, segment_len=8, mem_len=8)
    tokens = [arrays["tokens_0"].T[:, i : i + 8] for i in range(0, 32, 8)]
    resets = np.zeros((4, 2), bool)
    resets[1, 1] = True
    mixed = oracle.decode(cfg, weights, tokens, resets)
    plain, late = oracle.decode(cfg, weights, tokens), oracle.decode(cfg, weights, tokens[1:])
    for s in range(1, 4):
        check(mixed[s][0].logits, plain[s][0].logits, 0)
        check(mixed[s][1].logits, late[s - 1][1].logits, 0)
    assert mixed[2][1].kl is None
    assert mixed[3][1].kl is not None
    # Only row 0 counts in segment 2.
    check(oracle.mean_kl(mixed[2]), mixed[2][0].kl.mean())


def test_every_segment_is_written_once():
    """With mem_len = 2T segment s-3 is written at segment s, gated, as it entered the layer."""
    memory = oracle.MemorySettings(8, (0.02, 0.1), 1.0, 0.5, 6, locations="quantile")
    cfg = oracle.DecoderSettings(1, 2, segment_len=4, mem_len=8, pre_lnorm=True, memory=memory)
    rng = np.random.default_rng(0)
    weights = oracle.random_weights(rng, cfg, dim=6, inner=5, vocab=9)
    tokens = rng.integers(9, size=(5, 1, 4))
    results = [row for (row,) in oracle.decode(cfg, weights, tokens)]
    assert [r.layers[0].long_term.writes for r in results] == [0, 0, 0, 1, 2]
    inputs = weights["word_emb.emb_layers.0.weight"][tokens[0, 0]] * np.sqrt(6)
    ltm = oracle.scope(weights, "layers.0.dec_attn.long_term_attention.")
    expected = oracle.first_fit_operator(memory, 4).T @ oracle.gate(ltm, inputs)
    check(results[3].layers[0].long_term.coeffs, expected)


def test_kl_by_quadrature():
    mean, var, prior_scale, prior_mean = 0.3, 0.02, 0.2, 0.45
    t = np.linspace(-3, 4, 200_001)
    p, prior = oracle.normal(t, mean, var), oracle.normal(t, prior_mean, prior_scale**2)
    seen = p > 0
    expected = (p[seen] * np.log(p[seen] / prior[seen])).sum() * (t[1] - t[0])
    check(oracle.kl(mean, var, prior_scale, prior_mean), expected)


def test_quantile_locations():
    """Half the mass in bin 1, the rest in bins 4 and 5; without mass the uniform grid."""
    salience = np.array([0.0, 0.5, 0.0, 0.0, 0.25, 0.25, 0.0, 0.0])
    locations = oracle.quantile_locations(salience, 8)
    check(locations, np.array([9, 11, 13, 15, 34, 38, 42, 46]) / 64)
    check(oracle.quantile_locations(np.zeros(8), 4), np.array([0.25, 0.5, 0.75, 1.0]))
    check(oracle.drawn_locations(np.zeros(8), np.zeros(2)), np.array([0.5, 1.0]))


def test_padded_queries_have_no_mass():
    mean, var = np.array([[0.2, 0.8]]), np.array([[1e-3, 1e-3]])
    expected = oracle.bin_mass(mean[:, :1], var[:, :1], 16)
    check(oracle.bin_mass(mean, var, 16, np.array([True, False])), expected)
    assert not oracle.bin_mass(mean, var, 16, np.array([False, False])).any()


def test_an_empty_row_gives_nothing():
    arrays, _, q = attention_rows("e_ltm_forward_0")
    cfg = settings(arrays)
    result = oracle.read(cfg, golden.under(arrays, "param."), oracle.empty(cfg), q[0, 0])
    assert not result.context.any()
    assert not result.kl.any()
    assert not oracle.remember(cfg, oracle.empty(cfg), result).salience.any()
