"""The decoder: against the naive oracle, and the identities between its members."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import decoder, presets
from inf_former_jax.models.block import Block
from inf_former_jax.models.convert import published
from inf_former_jax.models.decoder import Decoder, ModelConfig
from tests import oracle
from tests.golden import jit, relative_error

B, T = 3, 8
MEMORY = LongTermConfig(
    num_basis=8, widths=(0.05, 0.2), ridge=0.5, tau=0.6, num_samples=10, bins=16
)
SIZES = {
    "vocab_size": 11,
    "num_layers": 2,
    "num_heads": 2,
    "head_dim": 4,
    "d_model": 8,
    "d_inner": 12,
    "segment_len": T,
    "mem_len": T,
    "dropout": 0.0,
    "query_chunk": 5,
}
PLAIN = ModelConfig(**SIZES)
INFINITE = ModelConfig(**SIZES, long_term=MEMORY)
STICKY = ModelConfig(**SIZES, long_term=dataclasses.replace(MEMORY, sticky=True))


def tokens(seed, length=T):
    return np.random.default_rng(seed).integers(0, 11, size=(B, length))


def forward(cfg, train=False):
    """(params, tokens, memory, where, key) -> Output, to be traced."""

    def apply(params, tokens, memory, where=None, key=None):
        rngs = {} if key is None else {"dropout": key, "locations": key}
        return Decoder(cfg).apply(
            {"params": params},
            tokens,
            memory,
            operators=decoder.operators(cfg),
            train=train,
            where=where,
            rngs=rngs,
        )

    return apply


def run(cfg, train=False):
    """The same, jitted."""
    return jit(forward(cfg, train))


def init_params(cfg):
    """Random parameters of the right shapes: compiling `init` would take seconds a test."""
    init = partial(Decoder(cfg).init, operators=decoder.operators(cfg))
    shapes = jax.eval_shape(init, jax.random.key(0), tokens(0), state.init(cfg, B))["params"]
    rng = np.random.default_rng(0)

    def random(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, leaf.dtype)

    return jax.tree.map(random, shapes)


@pytest.fixture(scope="module")
def infinite():
    """Parameters and jitted call of the ∞-former, shared by the identities below."""
    return init_params(INFINITE), run(INFINITE)


def stream(call, cfg, params, segments, memory=None):
    """Outputs of segments in a row."""
    memory, outputs = memory or state.init(cfg, B), []
    for segment in segments:
        outputs.append(call(params, segment, memory))
        memory = outputs[-1].memory
    return outputs


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mem_len": 0}, marks=pytest.mark.slow),
        pytest.param({"mem_len": T}, marks=pytest.mark.slow),
        {"mem_len": 2 * T, "norm": "pre"},
        {"long_term": STICKY.long_term},
    ],
    ids=["mem-0", "mem-T", "mem-2T-pre", "sticky"],
)
def test_decoder_is_the_oracle(change):
    """Float64, six segments, resets in single rows, a padded last segment: logits and KL."""
    cfg = dataclasses.replace(INFINITE, **change)
    settings = oracle.DecoderSettings(
        num_layers=2,
        num_heads=2,
        segment_len=T,
        mem_len=cfg.mem_len,
        pre_lnorm=cfg.norm == "pre",
        memory=oracle.MemorySettings(8, (0.05, 0.2), 0.5, 0.6, 10, bins=16),
    )
    weights = oracle.random_weights(np.random.default_rng(0), settings, 8, 12, 11)
    params = published.load(
        weights,
        n_layer=2,
        n_head=2,
        d_model=8,
        d_head=4,
        d_inner=12,
        tgt_len=T,
        ltm=True,
        mem_len=cfg.mem_len,
        mask=True,
        basis=8,
        sigmas=(0.05, 0.2),
        ridge=0.5,
        tau=0.6,
        nb_samples=10,
        pre_lnorm=cfg.norm == "pre",
    )[1]
    segments = [tokens(s) for s in range(6)]
    resets = np.zeros((6, B), bool)
    resets[3, 1] = resets[5, 0] = True
    where = np.ones((6, B, T), bool)
    where[5, 1, 5:] = False
    expected = _decode(cfg, settings, weights, segments, resets, where)
    with jax.enable_x64(True):
        memory, call = state.init(cfg, B, jnp.float64), run(cfg)
        for s, segment in enumerate(segments):
            out = call(params, segment, state.reset(memory, resets[s]), jnp.asarray(where[s]))
            memory = out.memory
            logits = np.stack([row.logits for row in expected[s]])
            real = where[s]
            assert relative_error(out.logits[real], logits[real]) < 1e-10
            total, count = out.aux["kl"]
            mean = oracle.mean_kl(expected[s], where[s])
            assert float(total) / max(float(count), 1) == pytest.approx(mean, rel=1e-9)
    for b, row in enumerate(expected[-1]):
        for ours, layer in zip(memory.layers, row.layers, strict=True):
            assert int(ours.long_term.writes[b]) == layer.long_term.writes
            if layer.long_term.writes:
                assert relative_error(ours.long_term.coeffs[b], layer.long_term.coeffs) < 1e-9


def _decode(cfg, settings, weights, segments, resets, where):
    """The oracle's results; with sticky memories its write takes the quantiles of the salience."""
    if not cfg.long_term.sticky:
        return oracle.decode(settings, weights, segments, resets, where)
    plain = oracle.gated_write

    def sticky(memory_settings, weights, memory, x, locations=None):
        u = oracle.quantile_locations(memory.salience, memory_settings.num_samples)
        return plain(memory_settings, weights, memory, x, u)

    oracle.gated_write = sticky
    try:
        return oracle.decode(settings, weights, segments, resets, where)
    finally:
        oracle.gated_write = plain


@pytest.mark.parametrize(
    "cfg",
    [pytest.param(PLAIN, marks=pytest.mark.slow), INFINITE],
    ids=["transformer-xl", "infinity-former"],
)
def test_causality_by_gradient(cfg):
    """d logits_t / d embedding_s is exactly zero for s > t, and not for any s ≤ t."""
    params = init_params(cfg)
    memory = stream(run(cfg), cfg, params, [tokens(1), tokens(2)])[-1].memory

    def logits(embeddings):  # one embedding a position, so that the gradient is a position's
        shifted = params | {"embed": {"embedding": embeddings}}
        wide = dataclasses.replace(cfg, vocab_size=T)
        rows = np.tile(np.arange(T), (B, 1))
        apply = Decoder(wide).apply
        logits_kernel = {"kernel": params["logits"]["kernel"][:, :T]}
        out = apply(
            {"params": shifted | {"logits": logits_kernel}},
            rows,
            memory,
            operators=decoder.operators(wide),
        )
        return out.logits[0].sum(-1)

    jacobian = jit(jax.jacrev(logits))(params["embed"]["embedding"][:T])
    reached = np.asarray(jnp.abs(jacobian).sum(-1)) > 0
    np.testing.assert_array_equal(reached, np.tril(np.ones((T, T), bool)))


def test_no_gradient_through_the_given_memory(infinite):
    """The paper's detachment, in every leaf."""
    params, call = infinite
    memory = stream(call, INFINITE, params, [tokens(s) for s in range(3)])[-1].memory
    leaves, rebuild = jax.tree.flatten(memory)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def total(values):
        given = list(leaves)
        for i, value in zip(floats, values, strict=True):
            given[i] = value
        return forward(INFINITE)(params, tokens(5), jax.tree.unflatten(rebuild, given)).logits.sum()

    for grad in jit(jax.grad(total))([leaves[i] for i in floats]):
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_a_reset_row_is_a_fresh_row(infinite):
    """After four segments row 1 starts again: its outputs are those of a new stream, to the bit."""
    params, call = infinite
    rows = np.array([False, True, False])
    old = stream(call, INFINITE, params, [tokens(s) for s in range(4)])[-1].memory
    again = [tokens(s) for s in range(10, 14)]
    reset = stream(call, INFINITE, params, again, state.reset(old, rows))
    kept = stream(call, INFINITE, params, again, old)
    fresh = stream(call, INFINITE, params, again)
    for a, b, c in zip(reset, fresh, kept, strict=True):
        np.testing.assert_array_equal(a.logits[1], b.logits[1])
        np.testing.assert_array_equal(a.logits[0], c.logits[0])
    for a, b in zip(*(jax.tree.leaves(out[-1].memory) for out in (reset, fresh)), strict=True):
        np.testing.assert_array_equal(a[1], b[1])


def test_an_empty_memory_is_transformer_xl(infinite):
    """Until the first write, and again while the memory is kept empty: equal logits, no KL."""
    params, call = infinite
    of_plain = jax.tree_util.tree_map_with_path(lambda _, leaf: leaf, params)
    for name in ("block_0", "block_1"):
        of_plain[name] = {k: v for k, v in params[name].items() if k != "long_term"}
    plain, cut = run(PLAIN), [tokens(s) for s in range(2)]
    ours = stream(call, INFINITE, params, cut)
    theirs = stream(plain, PLAIN, of_plain, cut)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-6, atol=1e-6)
        assert float(a.aux["kl"][1]) == 0
    third = stream(call, INFINITE, params, [tokens(7)], ours[-1].memory)[0]
    other = stream(plain, PLAIN, of_plain, [tokens(7)], theirs[-1].memory)[0]
    assert relative_error(third.logits, other.logits) > 1e-3, "the memory changes nothing"
    assert float(third.aux["kl"][1]) == B * 2 * T


def test_one_long_pass_is_its_segments():
    """One layer of Transformer-XL: 3 segments with their memory equal one segment of 3T."""
    cfg = dataclasses.replace(PLAIN, num_layers=1, mem_len=2 * T)
    long = dataclasses.replace(cfg, segment_len=3 * T)
    params, joined = init_params(cfg), tokens(3, 3 * T)
    pieces = stream(run(cfg), cfg, params, np.split(joined, 3, axis=1))
    whole = run(long)(params, joined, state.init(long, B))
    actual = np.concatenate([out.logits for out in pieces], axis=1)
    np.testing.assert_allclose(actual, whole.logits, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("same_length", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_chunks_of_queries_change_nothing(same_length):
    """Query chunks of 5 in a segment of 8 equal the whole score matrix; gradients too."""
    cfg = dataclasses.replace(PLAIN, same_length=same_length, mem_len=5)
    whole = dataclasses.replace(cfg, query_chunk=T)
    params, memory = init_params(cfg), None
    results = []
    for each in (cfg, whole):
        memory = memory or stream(run(each), each, params, [tokens(0)])[-1].memory

        def objective(params, each=each, memory=memory):
            return (forward(each)(params, tokens(1), memory).logits ** 2).mean()

        results.append(jit(jax.value_and_grad(objective))(params))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(
    "mem_len", [pytest.param(n, marks=[] if n == T else pytest.mark.slow) for n in (0, T, 2 * T)]
)
def test_layer_inputs_are_written_exactly_once(mem_len):
    """The first layer's memory equals writing the embeddings, segment after segment, by hand."""
    from inf_former_jax.memory import long_term

    memory = dataclasses.replace(MEMORY, gate=False)
    cfg = dataclasses.replace(INFINITE, num_layers=1, mem_len=mem_len, long_term=memory)
    params, segments = init_params(cfg), [tokens(s) for s in range(6)]
    out = stream(run(cfg), cfg, params, segments)[-1].memory.layers[0].long_term
    expected = long_term.init(memory, B, 8)
    for segment in segments[: 5 - mem_len // T]:
        x = params["embed"]["embedding"][segment] * 8**0.5
        expected = long_term.write(memory, expected, x)
    np.testing.assert_array_equal(out.writes, expected.writes)
    assert relative_error(out.coeffs, expected.coeffs) < 1e-5


def test_a_row_of_padding_writes_nothing(infinite):
    """A document that has ended leaves its long-term memory alone while others go on."""
    params, call = infinite
    memory = stream(call, INFINITE, params, [tokens(s) for s in range(3)])[-1].memory
    where = np.ones((B, T), bool)
    where[2] = False
    after = call(params, tokens(4), memory, jnp.asarray(where)).memory
    before, now = memory.layers[1].long_term, after.layers[1].long_term
    np.testing.assert_array_equal(now.coeffs[2], before.coeffs[2])
    np.testing.assert_array_equal(now.writes - before.writes, [1, 1, 0])


def test_a_shorter_last_segment_is_a_padded_one(infinite):
    """T' < T tokens give the logits that T tokens with padding behind them give."""
    params, call = infinite
    memory = stream(call, INFINITE, params, [tokens(s) for s in range(3)])[-1].memory
    whole = tokens(4)
    padded = call(params, whole, memory, jnp.asarray(np.arange(T)[None] < np.full((B, 1), 5)))
    short = call(params, whole[:, :5], memory)
    np.testing.assert_allclose(short.logits, padded.logits[:, :5], rtol=2e-5, atol=2e-6)
    assert float(short.aux["kl"][1]) == float(padded.aux["kl"][1]) == B * 2 * 5


def test_dropout_is_applied_and_belongs_to_rows(infinite):
    """Outputs change with the key, not without training, and equal rows drop different units."""
    cfg = dataclasses.replace(INFINITE, dropout=0.5, attention_dropout=0.3)
    params, plain = infinite
    same_rows = np.tile(tokens(0)[:1], (B, 1))
    memory, training = state.init(cfg, B), run(cfg, train=True)
    one, two = (training(params, same_rows, memory, None, jax.random.key(k)) for k in (0, 1))
    assert relative_error(one.logits, two.logits) > 0.1
    assert relative_error(one.logits[0], one.logits[1]) > 0.1
    evaluated = run(cfg)(params, same_rows, memory)
    np.testing.assert_array_equal(evaluated.logits, plain(params, same_rows, memory).logits)


@pytest.mark.parametrize(
    ("changes", "traced"),
    [({}, [0]), ({"dropout": 0.25}, [0, 1, 2]), ({"long_term_layers": (1, 2)}, [0, 1])],
)
def test_equal_layers_are_traced_once(monkeypatch, changes, traced):
    """Layers differ in more than numbers with dropout, or if only some have the memory."""
    changes = {"num_layers": 3, "dropout": 0.0, **changes}
    cfg, calls, attend = dataclasses.replace(INFINITE, **changes), [], Block._look_around

    def counted(block, *arguments):
        calls.append(block.layer)
        return attend(block, *arguments)

    params = init_params(cfg)
    monkeypatch.setattr(Block, "_look_around", counted)
    rest = state.init(cfg, B), None, jax.random.key(0)
    jax.eval_shape(forward(cfg, train=True), params, tokens(0), *rest)
    assert calls == traced


def test_random_locations_come_from_their_own_rng():
    """`locations="draw"` needs rngs["locations"], and then steers the third segment's write."""
    drawn = dataclasses.replace(STICKY.long_term, locations="draw")
    cfg = dataclasses.replace(STICKY, long_term=drawn)
    params, call = init_params(STICKY), run(cfg)
    results = []
    for key in (0, 1):
        memory = state.init(cfg, B)
        for s in range(4):
            memory = call(params, tokens(s), memory, None, jax.random.key(key)).memory
        results.append(memory.layers[0].long_term.coeffs)
    assert relative_error(*results) > 1e-4


@pytest.mark.parametrize(
    "change, name",
    [
        ({"mem_len": 5}, "mem_len"),
        ({"mem_len": -1}, "mem_len"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_heads": 0}, "num_heads"),
        ({"d_model": 7}, "d_model"),
        ({"mem_len": 0, "same_length": True}, "mem_len"),
        ({"long_term_layers": (0, 7)}, "long_term_layers"),
        ({"long_term_layers": (0, 0)}, "long_term_layers"),
        ({"long_term_layers": (-1,)}, "long_term_layers"),
        ({"long_term_layers": (0,), "long_term": None}, "long_term_layers"),
        ({"sinks": 1, "mem_len": 0}, "sinks"),
        ({"sinks": -1}, "sinks"),
        ({"sinks": 1000}, "sinks"),
        ({"sinks": 2, "long_term": None, "mem_len": 2 * T - 1}, "sinks"),
        ({"sinks": 1, "same_length": True}, "sinks"),
        ({"sinks": 1, "long_term": None, "compressed": CompressedConfig(2, 8)}, "sinks"),
        ({"cell_distance": 1}, "cell_distance"),
        ({"cells_by_age": True}, "cells_by_age"),
        ({"cell_distance": 1, "position": "rotary"}, "cell_distance"),
    ],
)
def test_impossible_configurations_are_refused(change, name):
    """One line: option, found, accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: "):
        dataclasses.replace(INFINITE, **change)


def test_transformer_xl_takes_any_short_term_memory():
    """Without a long-term memory no row can get lost."""
    assert dataclasses.replace(PLAIN, mem_len=5).mem_len == 5


def test_a_call_that_does_not_fit_is_refused():
    """Longer segments, other batches, other models' memories, by the first part that differs."""
    params = init_params(PLAIN)
    wide, shallow = (dataclasses.replace(PLAIN, **c) for c in ({"d_model": 10}, {"num_layers": 1}))
    for segment, memory, match in [
        (tokens(0, T + 1), state.init(PLAIN, B), "tokens: found"),
        (tokens(0), state.init(PLAIN, B + 1), r"fifo: found \(4, 8, 8\), accepted: \(3, 8, 8\)"),
        (tokens(0), state.init(INFINITE, B), r"fifo: found \(3, 16, 8\), accepted: \(3, 8, 8\)"),
        (tokens(0), state.init(wide, B), r"layers\[0\].fifo: found \(3, 8, 10\), accepted: "),
        (tokens(0), state.init(shallow, B), r"memory.layers\[1\].fifo: found nothing, accepted"),
    ]:
        with pytest.raises(ValueError, match=match):
            Decoder(PLAIN).apply({"params": params}, segment, memory)


def test_presets_are_the_papers():
    """Hand-written table of SPEC §5."""
    made = presets.infinity_former()
    assert (made.num_layers, made.num_heads, made.head_dim, made.d_model) == (3, 6, 50, 300)
    assert (made.d_inner, made.segment_len, made.mem_len, made.dropout) == (300, 1024, 1024, 0.1)
    memory = made.long_term
    assert (memory.num_basis, memory.widths, memory.num_samples) == (512, (0.01, 0.05), 512)
    assert (memory.tau, memory.ridge, memory.min_var, memory.prior_scale) == (0.75, 1, 1e-6, 0.05)
    assert not memory.sticky and presets.infinity_former_sticky().long_term.sticky
    assert presets.transformer_xl().mem_len == 2048 and presets.transformer_xl().long_term is None
    assert presets.vanilla().mem_len == 0
    assert presets.vanilla(d_model=32).d_model == 32


def test_published_options_that_are_not_ours_are_refused():
    """A missing size and another augment_len, by name."""
    weights = oracle.random_weights(
        np.random.default_rng(0), oracle.DecoderSettings(1, 2, T, T, memory=None), 8, 12, 11
    )
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 8, "d_head": 4, "d_inner": 12, "mem_len": T}
    with pytest.raises(ValueError, match="tgt_len"):
        published.load(weights, **sizes)
    with pytest.raises(ValueError, match="augment_len: found 4"):
        published.load(weights, **sizes, tgt_len=T, ltm=True, augment_len=4)


def test_lasting_presets_differ_in_their_memory_only():
    """Hand-written: equal cost is N and M of the paper; small has a quarter of the functions."""
    plain, lasting, small = (
        getattr(presets, name)()
        for name in ("infinity_former", "infinity_former_lasting", "infinity_former_small")
    )
    for made in (lasting, small):
        assert dataclasses.replace(made, long_term=plain.long_term) == plain
        assert made.long_term.contraction == "power" and made.long_term.power == 1
    assert (lasting.long_term.num_basis, lasting.long_term.num_samples) == (512, 512)
    assert small.long_term.num_basis == 128
