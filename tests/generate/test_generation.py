"""Generation: equal to the decoder on whole segments, whatever the rows' places and calls."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax import generate
from inf_former_jax.generate import decoding, generation
from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import decoder
from inf_former_jax.models.decoder import Decoder, ModelConfig
from tests.golden import jit
from tests.pairs import LLAMA, PAIRS

B, T, V = 3, 4, 19
# Functions close together, so that a signal is read on fewer of them than it is stored on.
MEMORY = LongTermConfig(num_basis=96, widths=(0.2,), num_samples=8, bins=8)
POWER = dataclasses.replace(MEMORY, contraction="power", gate=False)
STICKY = dataclasses.replace(MEMORY, sticky=True)
INFINITE = ModelConfig(
    vocab_size=V,
    num_layers=2,
    num_heads=2,
    head_dim=4,
    d_model=8,
    d_inner=12,
    segment_len=T,
    mem_len=T,
    query_chunk=3,
    long_term=STICKY,
)
GPT2 = {
    "position": "learned",
    "max_position": 6,
    "mem_len": 0,
    "norm": "pre",
    "tied": True,
    "final_norm": True,
    "attention_bias": True,
    "activation": "gelu",
    "scale_embedding": False,
}
KINDS = {
    "sticky": {},
    "gpt2-infinity": {**GPT2, "long_term": POWER},
    "sticky-power-pre-mem-0": {
        "norm": "pre",
        "mem_len": 0,
        "long_term": dataclasses.replace(STICKY, contraction="power"),
    },
    "uniform-mem-2T": {"mem_len": 2 * T, "long_term": MEMORY},
    "gpt2": {**GPT2, "long_term": None},
    "vanilla": {"mem_len": 0, "long_term": None},
    "xl-same-length": {"mem_len": 5, "long_term": None, "same_length": True, "clamp_len": 3},
    "compressive": {"long_term": None, "compressed": CompressedConfig(2, 2 * T), "norm": "pre"},
    "llama": {**LLAMA, "long_term": None, "mem_len": 5, "same_length": True},
    "llama-compressive": {**LLAMA, "long_term": None, "compressed": CompressedConfig(2, T)},
    "compressive-infinite": {"compressed": CompressedConfig(2, T)},
}
LENGTHS = np.array([11, 3, 6])
#: A walk draws other locations, so a pair that draws them has a test of its own below.
WALKED = [name for name, of in PAIRS.items() if of["long_term"].locations != "draw"]
#: Sticky, without a memory, cells by age, and of heads of two kinds: the others are slow.
QUICK = ("sticky", "gpt2", "llama, joined, training-free", "mixed, cells")


def random_params(cfg):
    """Random parameters that make each token matter; compiling `init` would take seconds."""
    init = partial(Decoder(cfg).init, operators=decoder.operators(cfg))
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((B, T), int), state.init(cfg, B))
    rng = np.random.default_rng(0)

    def random(path, leaf):
        name = jax.tree_util.keystr(path)
        size = {"['bias']": 0.1, "kernel": 1.0}.get(name[name.rfind("[") :], 1.0)
        noise = rng.normal(size=leaf.shape) * size / max(1, leaf.shape[0] ** 0.5)
        return jnp.asarray(noise + ("scale" in name) * 2, leaf.dtype)

    return jax.tree_util.tree_map_with_path(random, shapes["params"])


class Model:
    """A decoder, its parameters, and the decoder on whole segments, compiled once."""

    def __init__(self, cfg, dtype=np.float32):
        self.cfg, self.decoder, self.dtype = cfg, Decoder(cfg), dtype
        self.params = jax.tree.map(lambda leaf: leaf.astype(dtype), random_params(cfg))
        self.ops = decoder.operators(cfg)
        self.call = jit(partial(self.decoder.apply, operators=self.ops))

    def run(self, state, prompt, num_tokens, key=0, **options):
        options = {"temperature": 0, "operators": self.ops, **options}
        key = jax.random.key(key)
        prompt = prompt[:, : max(options.get("lengths", [prompt.shape[1]]))]
        return generate.generate(
            self.decoder, self.params, state, prompt, num_tokens, key, **options
        )

    def fresh(self):
        return generate.start(self.decoder, B, self.dtype)

    def walk(self, tokens):
        """(logits [n, V], memory after the whole segments) of one row from a fresh memory."""
        memory, logits = state.init(self.cfg, 1, self.dtype), []
        for begin in range(0, len(tokens), T):
            piece = tokens[begin : begin + T]
            out = self.call(
                {"params": self.params}, np.pad(piece, (0, T - len(piece)))[None], memory
            )
            memory = out.memory if len(piece) == T else memory
            logits.append(out.logits[0, : len(piece)])
        return np.concatenate(logits), memory


def prompts(seed, length=11):
    return np.random.default_rng(seed).integers(0, V, (B, length))


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def sticky():
    return Model(INFINITE)


@pytest.fixture(scope="module")
def said(sticky):
    """A state after the prompts, and 13 greedy tokens of it."""
    _, read = sticky.run(sticky.fresh(), prompts(0), 0, lengths=LENGTHS)
    return read, np.asarray(sticky.run(read, prompts(0)[:, :0], 13)[0])


@pytest.mark.parametrize(
    "kind",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in [*KINDS, *WALKED]],
)
def test_greedy_is_the_decoder_on_whole_segments(kind):
    """Three calls, rows of unequal lengths: tokens, logits and memories are those of a walk.

    The second call has no prompt, the third has one for two of the rows. In float64: what the two
    round in float32 by their other order is amplified by weights that make each token matter.
    And a reset heals a row.
    """
    with jax.enable_x64(True):
        changes = {"num_layers": 1, **(KINDS | PAIRS)[kind]}
        model = Model(dataclasses.replace(INFINITE, **changes), np.float64)
        walks_agree(model)
        resets_heal(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_open_segments_follow_each_other(kind):
    """The same of two layers."""
    with jax.enable_x64(True):
        walks_agree(Model(dataclasses.replace(INFINITE, **KINDS[kind]), np.float64))


def walks_agree(model):
    """Of the test above."""
    carried, shapes = model.fresh(), jax.eval_shape(model.fresh)
    rows, aligned = [np.zeros(0, int)] * B, 0
    for lengths, num_tokens in [(LENGTHS, 6), (np.array([0, 0, 0]), 3), (np.array([4, 0, 9]), 7)]:
        prompt = prompts(num_tokens)
        new, carried = model.run(carried, prompt, num_tokens, lengths=lengths)
        for b in range(B):
            rows[b] = np.concatenate([rows[b], prompt[b, : lengths[b]], np.asarray(new[b])])
            logits, memory = model.walk(rows[b])
            np.testing.assert_allclose(carried.cache.logits[b], logits[-1], atol=1e-11, rtol=0)
            np.testing.assert_array_equal(new[b], logits[-num_tokens - 1 : -1].argmax(-1))
            assert carried.position[b] == len(rows[b]) % T
            if carried.position[b] == 0:
                aligned += 1
                ours = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], carried.memory)
                for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(memory), strict=True):
                    np.testing.assert_allclose(x, y, atol=1e-11, rtol=1e-11)
    assert aligned and len(np.unique(np.concatenate(rows)[-20:])) > 3
    assert jax.eval_shape(lambda: carried) == shapes


def resets_heal(model):
    """A row's memory and cache hold nothing but NaN or ∞; once it is reset it is as a fresh one.

    Beside it others go on in the middle of a segment, to the bit as beside zeros.
    """
    prompt = prompts(2)
    _, read = model.run(model.fresh(), prompts(0), 0, lengths=LENGTHS)

    def after(bad):
        def spoil(leaf):
            return leaf if leaf.dtype == jnp.int32 else leaf.at[0].set(bad)

        spoilt, row = jax.tree.map(spoil, read), np.arange(B) == 0
        begun = generate.DecodeState(
            state.reset(spoilt.memory, row), spoilt.cache, jnp.where(row, 0, spoilt.position)
        )
        return going_on(begun)

    def going_on(begun):  # first by less than a segment: the slots behind are not read
        _, between = model.run(begun, prompt, 0, lengths=np.array([2, 3, 6]))
        return between, model.run(between, prompt, 0)[1]

    expected, fresh = after(0.0), going_on(model.fresh())
    for leaf, other in zip(*(jax.tree.leaves(found) for found in (expected, fresh)), strict=True):
        np.testing.assert_allclose(leaf[0], other[0], atol=1e-11, rtol=1e-11)
    for bad in (np.nan, np.inf):
        assert_same(after(bad), expected)


@pytest.mark.slow
def test_types_are_embeddings_added():
    """As a model whose vocabulary has an entry for every pair of token and type."""
    plain = dataclasses.replace(INFINITE, num_layers=1)
    model, rng = Model(plain), np.random.default_rng(4)
    tokens, types = prompts(6), rng.integers(0, V, (B, 11))
    said = rng.integers(0, V, B)
    table = np.asarray(model.params["embed"]["embedding"])
    pairs = (table[:, None] + table[None]).reshape(V * V, -1)
    paired = Model(dataclasses.replace(plain, vocab_size=V * V))
    kept = {name: leaf for name, leaf in model.params.items() if name not in ("embed", "logits")}
    # The logits of the first V entries are those of the tokens, and only these are said.
    head = np.zeros((model.cfg.d_model, V * V), np.float32)
    head[:, :V] = model.params["logits"]["kernel"]
    paired.params = {**kept, "embed": {"embedding": pairs}, "logits": {"kernel": head}}
    ours, _ = model.run(model.fresh(), tokens, 1, types=types, reply_types=said)
    theirs, _ = paired.run(paired.fresh(), tokens * V + types, 1, vocab_size=V)
    np.testing.assert_array_equal(ours, theirs)
    replies, state = model.run(
        model.fresh(), tokens, 7, lengths=LENGTHS, types=types, reply_types=said
    )
    for b in range(B):
        n = LENGTHS[b]
        words = np.concatenate([tokens[b, :n], np.asarray(replies[b])])
        of = np.concatenate([types[b, :n], np.full(7, said[b])])
        logits, _ = paired.walk(words * V + of)
        np.testing.assert_allclose(state.cache.logits[b], logits[-1, :V], atol=1e-5, rtol=0)
        np.testing.assert_array_equal(replies[b], logits[n - 1 : -1, :V].argmax(-1))
        assert np.abs(logits[-1, :V] - model.walk(words)[0][-1]).max() > 1e-3


def test_two_calls_are_one(sticky, said):
    """To the bit, tokens and states; and the state that both began with is still usable."""
    read, _ = said
    none = prompts(0)[:, :0]
    whole, after = sticky.run(read, none, 9)
    first, between = sticky.run(read, none, 4)
    second, end = sticky.run(between, none, 5)
    np.testing.assert_array_equal(whole, np.concatenate([first, second], axis=1))
    assert_same(after, end)


def test_a_stream_is_generate(sticky, said):
    """Sampled tokens and the state, to the bit; another key says something else."""
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 7, "operators": sticky.ops}
    none, key = prompts(0)[:, :0], jax.random.key(3)
    expected, state = sticky.run(said[0], none, 8, key=3, **options)
    steps = generate.stream(sticky.decoder, sticky.params, said[0], none, 8, key, **options)
    tokens = []
    with pytest.raises(StopIteration) as end:
        while True:
            tokens.append(next(steps))
    np.testing.assert_array_equal(np.stack(tokens, axis=1), expected)
    assert_same(end.value.value, state)
    other, _ = sticky.run(said[0], none, 8, key=4, **options)
    assert (np.asarray(other) != expected).any()
    uniform, _ = sticky.run(said[0], none, 8, temperature=1e6)
    assert (np.asarray(uniform[:, 1:]) != uniform[:, :-1]).any(axis=1).all(), "one draw for all"


def test_what_a_tokeniser_does_not_know_is_never_said(sticky, said):
    """The 5 first ids only, greedily and at any temperature."""
    read, none = said[0], prompts(0)[:, :0]
    greedy, _ = sticky.run(read, none, 1, vocab_size=5)
    np.testing.assert_array_equal(greedy[:, 0], read.cache.logits[:, :5].argmax(axis=1))
    wild, _ = sticky.run(read, none, 13, temperature=1e6, vocab_size=5)
    assert set(np.asarray(wild).ravel().tolist()) == set(range(5))


def test_a_row_stops_alone(sticky, said):
    """It says the stop token, reads it, repeats it and reads nothing more; others go on."""
    read, greedy = said
    firsts = [np.flatnonzero(greedy[b] == greedy[0, 5])[:1] for b in range(B)]
    ends = [int(at[0]) if at.size else 12 for at in firsts]
    tokens, after = sticky.run(read, greedy[:, :0], 13, stop=[int(greedy[0, 5])])
    for b, end in enumerate(ends):
        np.testing.assert_array_equal(tokens[b, : end + 1], greedy[b, : end + 1])
        np.testing.assert_array_equal(tokens[b, end + 1 :], greedy[b, end])
        count = LENGTHS[b] + end + 1
        assert int(after.memory.seen[b] + after.position[b]) == count
        alone = sticky.run(read, greedy[:, :0], end + 1)[1]
        assert_same(*(jax.tree.map(lambda leaf, b=b: leaf[b], s) for s in (after, alone)))
    assert ends[0] < 12, "no row stops"


def test_a_stream_ends_when_all_rows_have(sticky, said):
    """All first tokens are stop tokens: one step, while `generate` pads to its width."""
    read, greedy = said
    stop = [int(token) for token in greedy[:, 0]]
    args = (sticky.decoder, sticky.params, read, greedy[:, :0], 5, jax.random.key(0))
    options = {"temperature": 0.0, "stop": stop, "operators": sticky.ops}
    assert len(list(generate.stream(*args, **options))) == 1
    padded, _ = generate.generate(*args, **options)
    np.testing.assert_array_equal(padded, np.tile(greedy[:, :1], 5))


def test_a_long_prompt_is_constant_memory(sticky):
    """50 segments by the two programs that there are, into a state of the same shapes."""
    prompt = prompts(5, 50 * T + 1)
    sticky.run(sticky.fresh(), prompt[:, :5], 1)
    programs = decoding.extend._cache_size()
    none, after = sticky.run(sticky.fresh(), prompt, 0)
    assert none.shape == (B, 0) and decoding.extend._cache_size() == programs
    assert jax.eval_shape(lambda: after) == jax.eval_shape(sticky.fresh)
    logits, _ = sticky.walk(prompt[1])
    np.testing.assert_allclose(after.cache.logits[1], logits[-1], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(after.memory.layers[0].long_term.writes, [49] * B)


def test_every_piece_draws_locations_by_a_key_of_its_own():
    """`extend` gives it to the decoder where a segment begins; here that returns what it gets."""

    class Keys(Decoder):
        def apply(self, variables, memory, *more, method, **options):
            if method == "open":
                return jax.random.key_data(options["rngs"]["locations"]), more[0]
            return more[-3] if method == "extend" else memory

    decoder, constants = Keys(INFINITE), decoding.Constants(None, (), jax.random.key(0))
    piece = decoding.Piece(np.zeros((1, 1), np.int32), np.ones(1, np.int32))
    keys = [jax.random.key_data(constants.key)]
    for number in range(3):
        begun = generate.DecodeState(jnp.zeros(2, jnp.uint32), (), jnp.zeros(1, jnp.int32))
        keys.append(decoding.extend(decoder, None, begun, piece, constants, number).memory)
    assert len({tuple(np.asarray(key).tolist()) for key in keys}) == 4


@pytest.mark.slow
def test_drawn_locations_take_the_key():
    """The same key gives the same logits, another one others, after a second write."""
    drawn = dataclasses.replace(STICKY, locations="draw")
    model = Model(dataclasses.replace(INFINITE, long_term=drawn))
    logits = [
        model.run(model.fresh(), prompts(0, 17), 0, key=key)[1].cache.logits for key in (0, 0, 1)
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-5
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    "change, match",
    [
        (
            {"prompt": np.zeros((B, 0), int)},
            r"lengths of row 0: found 0, accepted: 1 .* nothing yet",
        ),
        ({"lengths": np.array([1, 0, 2])}, "lengths of row 1: found 0"),
        ({"lengths": np.array([1, 1, 6])}, "lengths of row 2: found 6, accepted: 1 … 5"),
        ({"prompt": np.full((B, 5), V)}, "prompt: found 19, accepted: ids 0 … 18"),
        ({"prompt": np.full((B, 5), -1)}, "prompt: found -1"),
        ({"prompt": np.zeros((2, 5), int)}, r"state.*: found \(3, .*accepted: \(2, "),
        ({"num_tokens": -1}, "num_tokens: found -1"),
        ({"temperature": -0.1}, "temperature: found"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"top_p": 0.0}, "top_p: found 0"),
        ({"top_p": 1.1}, "top_p: found 1.1"),
        ({"top_k": -1}, "top_k: found -1"),
        ({"stop": [3, V]}, "stop: found 19"),
        ({"stop": [-1]}, "stop: found -1"),
        ({"vocab_size": V + 1}, "vocab_size: found 20"),
        ({"types": np.full((B, 5), V), "reply_types": np.zeros(B, int)}, "types: found 19"),
        ({"types": np.zeros((B, 5), int)}, "reply_types: found none"),
        ({"reply_types": np.zeros(B, int)}, "reply_types: found some, accepted: none"),
    ],
)
def test_bad_input_is_refused_at_the_door(sticky, change, match):
    """In one line, by `stream` before its first step."""
    given = {"prompt": np.zeros((B, 5), int), "num_tokens": 1, **change}
    with pytest.raises(ValueError, match=f"^{match}") as refused:
        generate.stream(
            sticky.decoder,
            sticky.params,
            sticky.fresh(),
            given.pop("prompt"),
            given.pop("num_tokens"),
            jax.random.key(0),
            **given,
        )
    assert "accepted: " in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "types, reply_types, match",
    [
        (
            np.zeros((B, 4), int),
            np.zeros(B, int),
            r"types: found .*\[3, 4\], accepted: ids \[3, 5\]",
        ),
        (np.zeros((B, 5), int), np.zeros(2, int), r"reply_types: found \[2\], accepted: \[B\]"),
    ],
)
def test_types_of_another_shape_are_refused(types, reply_types, match):
    """Where shapes are checked by annotations nobody gets that far: tests only."""
    with pytest.raises(ValueError, match=f"^{match}"):
        generation._checked_prompt(
            INFINITE, np.zeros((B, 5), int), np.full(B, 5), types, reply_types
        )


@pytest.mark.parametrize("num_tokens", [0, 4])
def test_nothing_is_said_after_a_nan(sticky, num_tokens):
    """Of a state, and of parameters; the row and the token are named."""
    read = sticky.run(sticky.fresh(), prompts(1, 5), 0)[1]
    wrong = read._replace(cache=read.cache._replace(logits=read.cache.logits.at[1, 2].set(-np.inf)))
    match = "^logits of row 1 for token 1: found NaN or infinity, accepted: finite numbers$"
    with pytest.raises(generate.NonFiniteState, match=match):
        sticky.run(wrong, prompts(1, 5)[:, :0], num_tokens)
    params = jax.tree.map(lambda leaf: leaf + np.nan, sticky.params)
    given = sticky.decoder, params, sticky.fresh(), prompts(1, 5), num_tokens, jax.random.key(0)
    for function in (generate.generate, lambda *given: next(generate.stream(*given))):
        with pytest.raises(generate.NonFiniteState, match="row 0 for token 1: found NaN"):
            function(*given)


def test_padding_may_be_any_number(sticky):
    """What is beyond a row's length is not looked at."""
    lengths, prompt = np.array([3, 5, 1]), prompts(1, 5)
    strange = np.where(np.arange(5) < lengths[:, None], prompt, -7)
    a, b = (
        sticky.run(sticky.fresh(), each, 0, lengths=lengths, types=each)[1]
        for each in (prompt, strange)
    )
    assert_same(a, b)


def test_a_saved_state_goes_on(sticky, said, tmp_path):
    """Every bit comes back, without parameters, and says the same tokens."""
    read, greedy = said
    generate.save_state(tmp_path / "book.npz", read)
    loaded = generate.load_state(tmp_path / "book.npz", sticky.decoder, B)
    assert_same(loaded, read)
    np.testing.assert_array_equal(sticky.run(loaded, greedy[:, :0], 13)[0], greedy)
    assert [file.name for file in tmp_path.iterdir()] == ["book.npz"]
