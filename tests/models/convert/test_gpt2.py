"""GPT-2 as a preset: against PyTorch's, against naive NumPy with memories, its files, the graft."""

import dataclasses
import json
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import decoder, presets
from inf_former_jax.models.convert import gpt2, gpt2_layout, places
from inf_former_jax.models.decoder import Decoder
from tests import golden, oracle
from tests.golden import relative_error

B, T, VOCAB, WIDTH, HEADS = 2, 8, 40, 16, 2
MEMORY = LongTermConfig(num_basis=8, widths=(0.05, 0.2), ridge=0.5, tau=0.6, num_samples=10)
SETTINGS = oracle.MemorySettings(8, (0.05, 0.2), 0.5, 0.6, 10)


def tensors(seed=0, dtype=np.float64):
    """Random tensors of a tiny GPT-2 by their published names, written out by hand."""
    rng = np.random.default_rng(seed)
    shapes = {
        "wte.weight": (VOCAB, WIDTH),
        "wpe.weight": (16, WIDTH),
        "ln_f.weight": (WIDTH,),
        "ln_f.bias": (WIDTH,),
    }
    for j in range(2):
        for name, shape in {
            "ln_1": (WIDTH,),
            "ln_2": (WIDTH,),
            "attn.c_attn": (WIDTH, 3 * WIDTH),
            "attn.c_proj": (WIDTH, WIDTH),
            "mlp.c_fc": (WIDTH, 24),
            "mlp.c_proj": (24, WIDTH),
        }.items():
            shapes[f"h.{j}.{name}.weight"], shapes[f"h.{j}.{name}.bias"] = shape, shape[-1:]
    return {name: (0.4 * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def tokens(seed, length=T):
    return np.random.default_rng(seed).integers(0, VOCAB, size=(B, length))


def call(cfg):
    """(params, tokens, memory) -> Output, jitted."""

    def apply(params, tokens, memory):
        ops = decoder.operators(cfg)
        return Decoder(cfg).apply({"params": params}, tokens, memory, operators=ops)

    return golden.jit(apply)


# Against PyTorch


@pytest.mark.parametrize(
    "dtype", [pytest.param(np.float64, marks=pytest.mark.slow), np.float32], ids=["x64", "f32"]
)
def test_logits_and_gradients_are_pytorchs(dtype):
    """A model that `transformers` saved, in chunks of queries: all logits, loss, all gradients."""
    arrays = golden_outputs()
    with golden.precision(dtype):
        cfg, params = gpt2.load(golden.FOLDER / "gpt2")
        cfg = dataclasses.replace(cfg, query_chunk=5)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        given, memory = arrays["tokens"], state.init(cfg, 3, dtype)

        def objective(params):
            logits = Decoder(cfg).apply({"params": params}, given, memory).logits
            terms = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], given[:, 1:])
            return terms.mean(), logits

        (loss, logits), grads = golden.jit(jax.value_and_grad(objective, has_aux=True))(params)
        assert logits.dtype == dtype
        limit = 1e-12 if dtype == np.float64 else 1e-5
        assert np.abs(logits - arrays["logits"]).max() < limit * np.abs(arrays["logits"]).max()
        assert float(loss) == pytest.approx(float(arrays["loss"]), rel=limit)
        expected = gpt2_layout.own(golden.under(arrays, "grad."))
        ours = places.pack(gpt2_layout.layout(cfg), grads)
    assert ours.keys() == expected.keys()
    for name, grad in expected.items():
        if name.endswith("c_attn.bias"):  # a bias of the keys changes nothing
            np.testing.assert_allclose(ours[name][16:32], 0, atol=1e-6)
        assert relative_error(ours[name], grad) < 1e-5, name


def golden_outputs():
    """What `golden/make_gpt2.py` computed."""
    with np.load(golden.FOLDER / "gpt2" / "outputs.npz") as arrays:
        return dict(arrays)


# The oracle: one row, from Radford et al. 2019 and SPEC §6, on the published tensors


def layer_norm(weights, x):
    return oracle.layer_norm({f"layer_norm.{k}": weights[k] for k in ("weight", "bias")}, x)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(weights, x):
    return x @ weights["weight"] + weights["bias"]


def attend(weights, window, x):
    """Heads' outputs [T, E] and queries [H, T, K]; query i sees the window and keys up to i."""
    joined = linear(oracle.scope(weights, "attn.c_attn."), np.concatenate([window, x]))
    q, k, v = (oracle.split_heads(part, HEADS) for part in np.split(joined, 3, axis=1))
    q, past = q[len(window) :], len(window)
    out = np.zeros((len(x), HEADS, WIDTH // HEADS))
    for h in range(HEADS):
        for i in range(len(x)):
            scores = k[: past + i + 1, h] @ q[i, h] / math.sqrt(WIDTH // HEADS)
            weight = np.exp(scores - scores.max())
            out[i, h] = weight / weight.sum() @ v[: past + i + 1, h]
    return linear(oracle.scope(weights, "attn.c_proj."), out.reshape(len(x), WIDTH)), q


def decode(weights, segments, mem_len=0, long_term=(), pooled=0, head=None):
    """Logits of one row's segments.

    Short-term inputs are kept as they are; what leaves them after `mem_len` is written to a
    long-term memory with the given weights of each layer, or the means of `pooled` neighbours
    become keys, the newest 8 of them. The output matrix is `head`, or the embeddings.
    """
    logits, kept = [], [np.zeros((0, WIDTH))] * 2
    memories, slots = [oracle.empty(SETTINGS)] * 2, [np.zeros((0, WIDTH))] * 2
    for segment in segments:
        x = weights["wte.weight"][segment] + weights["wpe.weight"][: len(segment)]
        for j in range(2):
            own, fifo, inputs = oracle.scope(weights, f"h.{j}."), kept[j], x
            if len(fifo) == mem_len + T:
                pending, fifo = fifo[:T], fifo[T:]
                if long_term:
                    memories[j] = oracle.gated_write(SETTINGS, long_term[j], memories[j], pending)
                if pooled:
                    means = pending.reshape(-1, pooled, WIDTH).mean(axis=1)
                    slots[j] = np.concatenate([slots[j], means])[-8:]
            short = fifo[len(fifo) - min(mem_len, len(fifo)) :]
            joined = np.concatenate([slots[j], short, x])
            normed = layer_norm(oracle.scope(own, "ln_1."), joined)
            a, q = attend(own, normed[: -len(x)], normed[-len(x) :])
            if long_term:
                a = a + oracle.read(SETTINGS, long_term[j], memories[j], q.swapaxes(0, 1)).context
            x = x + a
            hidden = linear(
                oracle.scope(own, "mlp.c_fc."), layer_norm(oracle.scope(own, "ln_2."), x)
            )
            x = x + linear(oracle.scope(own, "mlp.c_proj."), gelu(hidden))
            kept[j] = np.concatenate([fifo, inputs])
        head = weights["wte.weight"] if head is None else head
        logits.append(layer_norm(oracle.scope(weights, "ln_f."), x) @ head.T)
    return logits


def oracle_memory(params):
    """One layer's memory parameters as the published tensors [out, in]."""
    read, gate = params["read"], params["gate"]
    inward = lambda w: np.asarray(w).reshape(WIDTH, WIDTH).T  # noqa: E731
    return {
        "proj_key.weight": inward(read["key"]),
        "proj_value.weight": inward(read["value"]),
        "attn_out.weight": inward(read["out"]),
        "mu.weight": np.asarray(read["mu"])[None],
        "sigma.weight": np.asarray(read["sigma"])[None],
        "mask_net.weight": np.asarray(gate["kernel"]).transpose(2, 1, 0),
        "mask_net.bias": np.asarray(gate["bias"]),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"mem_len": T},
        {"long_term": MEMORY},
        {"mem_len": T, "compressed": CompressedConfig(rate=2, length=8, function="mean")},
    ],
    ids=["short-term", "long-term", "compressed"],
)
def test_memories_are_the_oracles(changes):
    """Five segments in float64: learned positions restart, remembered states keep theirs."""
    weights = tensors()
    with jax.enable_x64(True):
        cfg, params = gpt2.load(weights, num_heads=HEADS)
        cfg = dataclasses.replace(cfg, segment_len=T, query_chunk=5, **changes)
        published = ()
        if cfg.long_term is not None:
            params = gpt2.graft(cfg, params, jax.random.key(0))
            rng = np.random.default_rng(1)
            for j in range(2):
                own = params[f"block_{j}"]["long_term"]
                own = jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape), own)
                params[f"block_{j}"]["long_term"] = own
            published = [oracle_memory(params[f"block_{j}"]["long_term"]) for j in range(2)]
        run, memory = call(cfg), state.init(cfg, B, jnp.float64)
        segments = [tokens(s) for s in range(5)]
        pooled = 2 if cfg.compressed is not None else 0
        expected = [
            decode(weights, [s[b] for s in segments], cfg.mem_len, published, pooled)
            for b in range(B)
        ]
        for s, segment in enumerate(segments):
            out = run(params, segment, memory)
            memory = out.memory
            assert relative_error(out.logits, np.stack([row[s] for row in expected])) < 1e-11


# Files


def same(actual, expected):
    """The same tree to the bit, dtypes included."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def folder(path, weights=None, **options):
    """A folder as `transformers` writes it."""
    from safetensors.numpy import save_file

    path.mkdir(exist_ok=True)
    weights = tensors(dtype=np.float32) if weights is None else weights
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": HEADS,
        "n_embd": WIDTH,
        "n_positions": 16,
        "vocab_size": VOCAB,
    }
    (path / "config.json").write_text(json.dumps(config | options))
    return path


def test_a_saved_model_is_loaded_again_to_the_bit(tmp_path):
    """With memories of both kinds, and with none; plain GPT-2 tensors come out as they went in."""
    weights = tensors(dtype=np.float32)
    plain, params = gpt2.load(folder(tmp_path / "given"))
    gpt2.save(plain, params, tmp_path / "plain")
    from safetensors.numpy import load_file

    same(load_file(tmp_path / "plain" / "model.safetensors"), weights)
    assert gpt2.load(tmp_path / "plain" / "model.safetensors")[0] == plain
    cfg = dataclasses.replace(
        plain,
        segment_len=T,
        long_term=MEMORY,
        compressed=CompressedConfig(2, 8),
        memory_gradient=1,
        dtype="bfloat16",
    )
    grafted = gpt2.graft(cfg, params, jax.random.key(0))
    gpt2.save(cfg, grafted, tmp_path / "ours")
    again, loaded = gpt2.load(tmp_path / "ours")
    assert again == cfg
    same(loaded, jax.tree.map(np.asarray, grafted))
    written = load_file(tmp_path / "ours" / "model.safetensors")
    same({name: written[name] for name in weights}, weights)
    assert "h.1.long_term.read.out" in written and "h.0.compression.kernel" in written


def test_all_published_forms_of_a_file_are_one(tmp_path):
    """With the prefix, output matrix and mask buffers, in half precision, as a mapping."""
    weights = {name: t.astype(np.float16) for name, t in tensors().items()}
    full = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    full["lm_head.weight"] = weights["wte.weight"]
    full["transformer.h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float16)
    full["transformer.h.1.attn.masked_bias"] = np.array(-1e4, np.float16)
    cfg, expected = gpt2.load(weights, num_heads=HEADS)
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {np.dtype(np.float32)}
    for given in (full, folder(tmp_path / "full", full), folder(tmp_path / "bare", weights)):
        again, params = gpt2.load(given, num_heads=HEADS)
        assert again == cfg
        same(params, expected)
    index = {"weight_map": {name: "a" if "h.0" in name else "b" for name in weights}}
    parts = folder(tmp_path / "parts")
    (parts / "model.safetensors").unlink()
    from safetensors.numpy import save_file

    for part in "ab":
        ours = {k: t for k, t in weights.items() if index["weight_map"][k] == part}
        save_file(ours, parts / part)
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    same(gpt2.load(parts)[1], expected)


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda w: without(w, "wte.weight"), r"wte\.weight: found no such tensor, accepted: "),
        (lambda w: without(w, "h.1.ln_2.bias"), r"h\.1\.ln_2\.bias: found no such tensor"),
        (
            lambda w: w | {"h.0.attn.c_attn.weight": w["h.0.attn.c_proj.weight"]},
            r"h\.0\.attn\.c_attn\.weight: found shape \(16, 16\), accepted: shape \(16, 48\)",
        ),
        (
            lambda w: w | {"encoder.weight": w["wte.weight"]},
            r"encoder\.weight: found such a tensor",
        ),
        (lambda w: w | {"ln_f.bias": np.arange(WIDTH)}, r"ln_f\.bias: found int64"),
        (lambda w: {k: w[k] for k in w if "h.1" not in k}, r"n_layer: found 1 in the tensors"),
    ],
    ids=["other", "missing", "shape", "unknown", "integers", "layer"],
)
def test_tensors_that_are_not_gpt2s_are_refused(tmp_path, change, match):
    """In one line that names the file and the tensor."""
    path = folder(tmp_path / "given", change(tensors(dtype=np.float32)))
    with pytest.raises(ValueError, match=match) as error:
        gpt2.load(path)
    assert str(path / "model.safetensors") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "option, value",
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("n_embd", 32),
        ("n_head", 3),
        ("inf_former", {"nothing": 1}),
        ("inf_former", {"segment_len": 32}),
    ],
)
def test_options_that_are_not_gpt2s_are_refused(tmp_path, option, value):
    path = folder(tmp_path / "given", **{option: value})
    name = {"n_head": "num_heads", "inf_former": "nothing|segment_len"}.get(option, option)
    with pytest.raises(ValueError, match=name):
        gpt2.load(path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    """Cut short, no config.json, a pickle that would run code, nothing at all."""
    path = folder(tmp_path / "given")
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors: found .*accepted: a whole"):
            gpt2.load(path)
    weights.write_bytes(whole)
    (path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: found nothing, accepted: "):
        gpt2.load(path)
    assert gpt2.load(path, num_heads=HEADS)[0].num_heads == HEADS
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: found nothing"):
        gpt2.load(path)
    pickled = path / "pytorch_model.bin"
    pickled.write_bytes(pickle.dumps({}))
    for given in (path, pickled):
        with pytest.raises(ValueError, match=r"found a pickle, accepted: model\.safetensors"):
            gpt2.load(given)


def test_only_a_gpt2_is_saved(tmp_path):
    """Another architecture, a parameter too many, one too few: nothing is written."""
    cfg, params = gpt2.load(tensors(), num_heads=HEADS)
    for other in (
        {"activation": "relu"},
        {"position": "relative"},
        {"norm": "post"},
        {"head_dim": 4},
    ):
        name = next(iter(other)).replace("head_dim", "d_model")
        with pytest.raises(ValueError, match=rf"^{name}: found "):
            gpt2.save(dataclasses.replace(cfg, **other), params, tmp_path / "new")
    with pytest.raises(ValueError, match=r"params/logits/kernel: found nothing, accepted: \(16, 4"):
        gpt2.save(dataclasses.replace(cfg, tied=False), params, tmp_path / "new")
    with pytest.raises(ValueError, match="params: found more, accepted"):
        gpt2.save(cfg, params | {"more": np.zeros(1)}, tmp_path / "new")
    with pytest.raises(ValueError, match=r"params/block_0/long_term/.*: found nothing"):
        gpt2.save(presets_memory(cfg), params, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def presets_memory(cfg):
    """The same GPT-2 with a tiny long-term memory, in segments of T."""
    return dataclasses.replace(cfg, segment_len=T, long_term=MEMORY)


# Graft


def test_a_graft_changes_nothing_at_first_and_learns():
    """Same logits beyond the first write; W_O's gradient at once, the others' once it is not 0."""
    plain, params = gpt2.load(tensors(dtype=np.float32), num_heads=HEADS)
    cfg = presets_memory(plain)
    grafted = gpt2.graft(cfg, params, jax.random.key(3))
    same({k: v for k, v in grafted["block_1"].items() if k != "long_term"}, params["block_1"])

    def loss(params, memory):
        ops = decoder.operators(cfg)
        out = Decoder(cfg).apply({"params": params}, tokens(1), memory, operators=ops)
        return (out.logits**2).mean(), out

    take = golden.jit(jax.value_and_grad(loss, has_aux=True))
    before = take(grafted, state.init(cfg, B))[0][1].memory
    (_, out), grads = take(grafted, before)
    assert (out.memory.layers[1].long_term.writes == 1).all()
    alone = call(dataclasses.replace(plain, segment_len=T))
    expected = alone(params, tokens(1), state.init(plain, B)).logits
    np.testing.assert_allclose(out.logits, expected, rtol=1e-6, atol=1e-6)
    for name in ("block_0", "block_1"):
        read = grads[name]["long_term"]["read"]
        assert float(jnp.abs(read["out"]).max()) > 1e-6
        assert not np.any(read["value"]) and not np.any(read["mu"])
        own = grafted[name]["long_term"]["read"]
        grafted[name]["long_term"]["read"] = own | {"out": own["value"].transpose(1, 2, 0)}
    for leaf in jax.tree.leaves(take(grafted, before)[1]["block_0"]["long_term"]):
        assert float(jnp.abs(leaf).max()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"projections": "attention", "gate": False},
        pytest.param({"projections": "attention", "age_bias": "linear"}, marks=pytest.mark.slow),
        pytest.param({"joined": True}, marks=pytest.mark.slow),
        {"turn_queries": True},
    ],
    ids=str,
)
def test_a_graft_of_a_memory_that_is_read_by_content(changes, tmp_path):
    """It has what the decoder creates, and no more; saved and loaded it is the same."""
    plain, params = gpt2.load(tensors(dtype=np.float32), num_heads=HEADS)
    memory = dataclasses.replace(MEMORY, density="gibbs", **changes)
    cfg = dataclasses.replace(presets_memory(plain), long_term=memory)
    grafted = gpt2.graft(cfg, params, jax.random.key(3))
    ops = decoder.operators(cfg)
    given = jax.random.key(0), tokens(1), state.init(cfg, B)
    created = jax.eval_shape(lambda *of: Decoder(cfg).init(*of, operators=ops), *given)["params"]
    same(jax.tree.map(jnp.shape, grafted), jax.tree.map(jnp.shape, created))
    assert not np.any(grafted["block_0"].get("long_term", {}).get("read", {}).get("out", 0))
    gpt2.save(cfg, grafted, tmp_path)
    again, loaded = gpt2.load(tmp_path)
    assert again == cfg
    same(loaded, jax.tree.map(np.asarray, grafted))


def test_a_graft_needs_a_memory_and_its_layers():
    cfg, params = gpt2.load(tensors(), num_heads=HEADS)
    with pytest.raises(ValueError, match="cfg: found no memory"):
        gpt2.graft(cfg, params, jax.random.key(0))
    with pytest.raises(ValueError, match="params/block_1: found nothing"):
        gpt2.graft(presets_memory(cfg), without(params, "block_1"), jax.random.key(0))


# Presets


def shapes(cfg):
    """path -> shape of every parameter that the decoder makes."""

    def init():
        memory, ops = state.init(cfg, 1), decoder.operators(cfg)
        return Decoder(cfg).init(jax.random.key(0), np.zeros((1, 4), int), memory, operators=ops)

    made = jax.eval_shape(init)["params"]
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(made).items()}


def test_the_sizes_are_the_published_ones():
    """Numbers of parameters as published, and of the small one every shape, by the decoder."""
    published = {
        "small": 124_439_808,
        "medium": 354_823_168,
        "large": 774_030_080,
        "xl": 1_557_611_200,
    }
    for size, count in published.items():
        layout = gpt2_layout.layout(presets.gpt2(size)).values()
        assert sum(math.prod(place.shape) for place in layout) == count
    one = presets.gpt2(num_layers=1)
    layout = gpt2_layout.layout(one).values()
    expected = {"/".join(path): place.leaf for place in layout for path in place.paths}
    assert shapes(one) == expected, "tied: no matrix of the logits' own"
    with pytest.raises(ValueError, match="size: found tiny"):
        presets.gpt2("tiny")


def test_the_memories_are_the_papers():
    """Hand-written table of SPEC §6."""
    made = presets.gpt2_infinity()
    memory = made.long_term
    assert (made.segment_len, made.mem_len, made.max_position) == (512, 0, 1024)
    assert (memory.num_basis, memory.num_samples, memory.tau, memory.ridge) == (512, 512, 0.5, 0.5)
    assert (memory.widths, memory.min_var, memory.prior_scale) == ((0.005, 0.01), 1e-4, 0.05)
    assert memory.prior_mean is None and not memory.sticky
    assert dataclasses.replace(made, long_term=None) == presets.gpt2()
    assert presets.gpt2_infinity_sticky("xl").long_term.sticky
    lasting = presets.gpt2_infinity_lasting("medium").long_term
    assert (lasting.contraction, lasting.power, lasting.widths) == ("power", 1, (0.005, 0.01))
    compressed = presets.gpt2_compressive(num_layers=2).compressed
    assert (compressed.rate, compressed.length) == (4, 512)


def test_other_models_have_the_parameters_they_had():
    """Hand-written: nothing of GPT-2's options has reached the ∞-former."""
    cfg = presets.infinity_former(num_layers=1, segment_len=8, mem_len=8)
    heads, inward = (6, 50), (300, 6, 50)
    block = {
        "attention/query": inward,
        "attention/key": inward,
        "attention/value": inward,
        "attention/position": inward,
        "attention/out": (6, 50, 300),
        "long_term/read/key": inward,
        "long_term/read/value": inward,
        "long_term/read/out": (6, 50, 300),
        "long_term/read/mu": (512,),
        "long_term/read/sigma": (512,),
        "long_term/gate/kernel": (3, 300, 300),
        "long_term/gate/bias": (300,),
        "inner/kernel": (300, 300),
        "inner/bias": (300,),
        "outer/kernel": (300, 300),
        "outer/bias": (300,),
        "norm_attention/scale": (300,),
        "norm_attention/bias": (300,),
        "norm_feed_forward/scale": (300,),
        "norm_feed_forward/bias": (300,),
    }
    expected = {f"block_0/{name}": shape for name, shape in block.items()}
    expected |= {"embed/embedding": (22, 300), "bias_u": heads, "bias_w": heads}
    assert shapes(cfg) == expected | {"logits/kernel": (300, 22)}


@pytest.mark.parametrize(
    "change, name",
    [
        ({"segment_len": 17}, "segment_len"),
        ({"clamp_len": 4}, "clamp_len"),
        ({"max_position": 0}, "max_position"),
    ],
)
def test_impossible_options_are_refused(change, name):
    """A segment longer than the table among them."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: "):
        presets.gpt2(**{"segment_len": 16, "max_position": 16} | change)
