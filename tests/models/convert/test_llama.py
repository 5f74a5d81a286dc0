"""Llama: against `transformers`, against naive NumPy beside a memory, its files, the graft."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from inf_former_jax.memory import state
from inf_former_jax.memory.content import cell_signal
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import decoder, presets
from inf_former_jax.models.convert import llama, llama_layout, places
from inf_former_jax.models.decoder import Decoder
from tests import golden
from tests.golden import relative_error

FOLDER = golden.FOLDER / "llama"
B, T, VOCAB, WIDTH, HEADS, K, THETA, EPSILON = 2, 4, 40, 16, 4, 4, 50.0, 1e-3
MEMORY = LongTermConfig(num_basis=8, widths=(0.05, 0.2), num_samples=10)
#: Of one row and one segment after another, with cells that join local attention.
CELLS = dataclasses.replace(presets.TRAINING_FREE, num_basis=4)


def golden_outputs():
    """What `golden/make_llama.py` computed."""
    with np.load(FOLDER / "outputs.npz") as arrays:
        return dict(arrays)


def loaded(dtype, **changes):
    """The golden model in a dtype."""
    cfg, params = llama.load(FOLDER)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return dataclasses.replace(cfg, **changes), params


def call(cfg):
    """(params, tokens, memory) -> Output, jitted."""

    def apply(params, tokens, memory):
        ops = decoder.operators(cfg)
        return Decoder(cfg).apply({"params": params}, tokens, memory, operators=ops)

    return golden.jit(apply)


# Against `transformers`


@pytest.mark.parametrize(
    "dtype", [pytest.param(np.float64, marks=pytest.mark.slow), np.float32], ids=["x64", "f32"]
)
def test_logits_and_gradients_are_those_of_transformers(dtype):
    """A model that `transformers` saved, in chunks of queries: all logits, loss, all gradients."""
    arrays, narrow = golden_outputs(), dtype == np.float32
    expected, limit = (arrays["logits_float32"], 1e-5) if narrow else (arrays["logits"], 1e-10)
    with golden.precision(dtype):
        cfg, params = loaded(dtype, query_chunk=5)
        given, memory = arrays["tokens"], state.init(cfg, 3, dtype)

        def objective(params):
            logits = Decoder(cfg).apply({"params": params}, given, memory).logits
            terms = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], given[:, 1:])
            return terms.mean(), logits

        (loss, logits), grads = golden.jit(jax.value_and_grad(objective, has_aux=True))(params)
        assert logits.dtype == dtype
        assert np.abs(logits - expected).max() < limit * np.abs(expected).max()
        assert float(loss) == pytest.approx(float(arrays["loss"]), rel=limit)
        ours = places.pack(llama_layout.layout(cfg), grads)
    expected = golden.under(arrays, "grad.")
    assert ours.keys() == expected.keys()
    for name, grad in expected.items():
        # They were computed in float64 and are kept in float32.
        assert relative_error(ours[name], grad) < (1e-5 if narrow else 1e-7), name


def test_a_window_of_all_segments_gives_the_logits_of_the_whole_text():
    """Four segments of 4, 12 short-term tokens, by either schedule: places begin anew in each."""
    arrays = golden_outputs()
    segments = arrays["tokens"].reshape(3, 4, T)
    with jax.enable_x64(True):
        cfg, params = loaded(np.float64, segment_len=T, mem_len=3 * T)
        run, memory, logits = call(cfg), state.init(cfg, 3, jnp.float64), []
        for s in range(4):
            out = run(params, segments[:, s], memory)
            memory = out.memory
            logits.append(out.logits)
        found = np.concatenate(logits, axis=1)
        assert relative_error(found, arrays["logits"]) < 1e-10
        at_once = golden.jit(
            lambda params, memory: Decoder(cfg).apply(
                {"params": params},
                segments,
                memory,
                np.zeros((3, 4), bool),
                operators=None,
                method="all_segments",
            )
        )(params, state.init(cfg, 3, jnp.float64))
        assert relative_error(at_once.logits.reshape(found.shape), found) < 1e-12


def test_a_tied_model_is_that_of_transformers(tmp_path):
    """Its output matrix is in the file or not, and another one is refused."""
    tensors, arrays = load_file(FOLDER / "model.safetensors"), golden_outputs()
    embedding = tensors["model.embed_tokens.weight"]
    bare = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    with jax.enable_x64(True):
        for number, given in enumerate((bare, bare | {"lm_head.weight": embedding})):
            path = folder(tmp_path / str(number), given, tie_word_embeddings=True)
            cfg, params = llama.load(path)
            assert cfg.tied and "logits" not in params
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), params)
        out = call(cfg)(params, arrays["tokens"], state.init(cfg, 3, jnp.float64))
    assert relative_error(out.logits, arrays["logits_tied"]) < 1e-10
    path = folder(tmp_path / "other", tensors, tie_word_embeddings=True)
    with pytest.raises(
        ValueError, match=r"lm_head\.weight: found another matrix than model\.embed"
    ):
        llama.load(path)


# The oracle: one row, from Touvron et al. 2023 and Ainslie et al. 2023, on tensors by their names


def rms(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * scale


def at(x, place):
    """One vector at a place, by complex numbers."""
    speeds = THETA ** (-2 * np.arange(K // 2) / K)
    found = (x[: K // 2] + 1j * x[K // 2 :]) * np.exp(1j * place * speeds)
    return np.concatenate([found.real, found.imag])


def layer(tensors, kv_heads, window, x, cells=()):
    """A layer's outputs [T, E]: window and x as they were before it, cells without a place."""
    rows = rms(np.concatenate([window, x]), tensors["input_layernorm.weight"])
    cells = [rms(cell, tensors["input_layernorm.weight"]) for cell in cells]

    def head(name, number, vector):
        weight = tensors[f"self_attn.{name}_proj.weight"]
        return weight[number * K : (number + 1) * K] @ vector

    attended = np.zeros((len(x), HEADS * K))
    for t in range(len(x)):
        for h in range(HEADS):
            shared, last = h * kv_heads // HEADS, len(window) + t
            query = head("q", h, rows[last])
            scores = [query @ head("k", shared, cell) for cell in cells]
            scores += [at(query, last) @ at(head("k", shared, rows[s]), s) for s in range(last + 1)]
            weights = np.exp(np.array(scores) / K**0.5)
            seen = np.stack([head("v", shared, row) for row in [*cells, *rows[: last + 1]]])
            attended[t, h * K : (h + 1) * K] = weights @ seen / weights.sum()
    x = x + attended @ tensors["self_attn.o_proj.weight"].T
    normed = rms(x, tensors["post_attention_layernorm.weight"])
    gate, up = (normed @ tensors[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    return x + (gate / (1 + np.exp(-gate)) * up) @ tensors["mlp.down_proj.weight"].T


def random_tensors(kv_heads, head_dim=K, dtype=np.float64, seed=0):
    """Those of a Llama of 2 layers, written out by hand."""
    rng, heads, shared = np.random.default_rng(seed), HEADS * head_dim, kv_heads * head_dim
    shapes = {
        "model.embed_tokens.weight": (VOCAB, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCAB, WIDTH),
    }
    for j in range(2):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (heads, WIDTH),
            "self_attn.k_proj": (shared, WIDTH),
            "self_attn.v_proj": (shared, WIDTH),
            "self_attn.o_proj": (WIDTH, heads),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (24, WIDTH),
            "mlp.up_proj": (24, WIDTH),
            "mlp.down_proj": (WIDTH, 24),
        }.items():
            shapes[f"model.layers.{j}.{name}.weight"] = shape
    return {name: (0.4 * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def folder(path, tensors, **options):
    """A folder as `transformers` writes it, with the golden model's options."""
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((FOLDER / "config.json").read_text()) | options
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("kv_heads", "memory"), [(1, CELLS), (4, None)], ids=["one for all, cells", "each its own"]
)
def test_windows_and_cells_are_the_oracles(kv_heads, memory, tmp_path):
    """Three segments in float64, a window of one; what leaves it becomes cells of a memory."""
    tensors = random_tensors(kv_heads)
    path = folder(tmp_path / "given", tensors, num_key_value_heads=kv_heads)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (3, 1, T))
    with jax.enable_x64(True):
        cfg, params = llama.load(path)
        cfg = dataclasses.replace(cfg, segment_len=T, mem_len=T, long_term=memory)
        run, carried = call(cfg), state.init(cfg, 1, jnp.float64)
        before = [np.zeros((0, WIDTH))] * 2
        for segment in tokens:
            out = run(params, segment, carried)
            carried, x = out.memory, tensors["model.embed_tokens.weight"][segment[0]]
            for j in range(2):
                of_layer, cells = golden.under(tensors, f"model.layers.{j}."), ()
                written = carried.layers[j].long_term
                if written is not None and written.writes[0]:
                    cells = np.asarray(cell_signal(memory, written.coeffs))[0]
                window, before[j] = before[j], x
                x = layer(of_layer, kv_heads, window, x, cells)
            expected = rms(x, tensors["model.norm.weight"]) @ tensors["lm_head.weight"].T
            assert relative_error(out.logits[0], expected) < 1e-11
        assert memory is None or carried.layers[0].long_term.writes[0] == 1


# Files


def same(actual, expected):
    """The same tree to the bit, dtypes included."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_the_golden_folder_is_read_as_it_says():
    """Hand-written: sizes, heads, ε, θ, and the parameters' shapes."""
    cfg, params = llama.load(FOLDER)
    assert (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim) == (4, 2, 4)
    assert (cfg.vocab_size, cfg.d_model, cfg.d_inner, cfg.num_layers) == (40, 16, 24, 2)
    assert (cfg.norm_epsilon, cfg.rope_theta, cfg.segment_len, cfg.mem_len) == (1e-3, 50.0, 16, 0)
    assert (cfg.dropout, cfg.attention_dropout, cfg.tied, cfg.dtype) == (0, 0, False, "float32")
    block = {
        "attention/query": (16, 4, 4),
        "attention/key": (16, 2, 4),
        "attention/value": (16, 2, 4),
        "attention/out": (4, 4, 16),
        "inner/kernel": (16, 24),
        "inner_gate/kernel": (16, 24),
        "outer/kernel": (24, 16),
        "norm_attention/scale": (16,),
        "norm_feed_forward/scale": (16,),
    }
    expected = {f"block_{j}/{name}": shape for j in range(2) for name, shape in block.items()}
    expected |= {"embed/embedding": (40, 16), "norm_final/scale": (16,), "logits/kernel": (16, 40)}
    assert {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()} == expected
    assert shapes(cfg) == expected, "and the decoder makes no others"


def shapes(cfg):
    """path -> shape of every parameter that the decoder makes."""

    def init():
        memory, ops = state.init(cfg, 1), decoder.operators(cfg)
        return Decoder(cfg).init(jax.random.key(0), np.zeros((1, 4), int), memory, operators=ops)

    made = jax.eval_shape(init)["params"]
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(made).items()}


@pytest.mark.parametrize("long_term", [MEMORY, CELLS], ids=["own", "training-free"])
def test_a_saved_model_is_loaded_again_to_the_bit(long_term, tmp_path):
    """Without a memory, and with one grafted: plain tensors come out as they went in."""
    tensors = load_file(FOLDER / "model.safetensors")
    plain, params = llama.load(FOLDER)
    llama.save(plain, params, tmp_path / "plain", eos=1)
    same(load_file(tmp_path / "plain" / "model.safetensors"), tensors)
    assert llama.load(tmp_path / "plain")[0] == plain
    cfg = dataclasses.replace(
        plain,
        segment_len=T,
        mem_len=T,
        long_term=long_term,
        dropout=0.1,
        dtype="bfloat16",
        sinks=1,
        long_term_layers=(1,),
    )
    grafted = llama.graft(cfg, params, jax.random.key(0))
    expected = {path: np.shape(leaf) for path, leaf in flatten_dict(grafted).items()}
    assert shapes(cfg) == {"/".join(path): shape for path, shape in expected.items()}
    llama.save(cfg, grafted, tmp_path / "ours")
    again, found = llama.load(tmp_path / "ours")
    assert again == cfg
    same(found, jax.tree.map(np.asarray, grafted))
    written = load_file(tmp_path / "ours" / "model.safetensors")
    same({name: written[name] for name in tensors}, tensors)
    if long_term is MEMORY:
        assert "model.layers.1.long_term.read.out" in written
        assert not np.any(written["model.layers.1.long_term.read.out"])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_all_published_forms_of_a_file_are_one(dtype, tmp_path):
    """In half precision and in shards, without the prefix, with a constant of older versions."""
    tensors = {name: t.astype(dtype) for name, t in random_tensors(2).items()}
    cfg, expected = llama.load(folder(tmp_path / "whole", tensors))
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {np.dtype(np.float32)}
    key = "model.layers.0.self_attn.k_proj.weight"
    np.testing.assert_array_equal(
        expected["block_0"]["attention"]["key"][:, 1, 2], tensors[key].astype(np.float32)[K + 2]
    )
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    old = tensors | {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(2, dtype)}
    for number, given in enumerate((bare, old)):
        same(llama.load(folder(tmp_path / str(number), given)), (cfg, expected))
    parts = folder(tmp_path / "parts", tensors)
    (parts / "model.safetensors").unlink()
    index = {"weight_map": {name: "a" if "layers.0" in name else "b" for name in tensors}}
    for part in "ab":
        ours = {name: t for name, t in tensors.items() if index["weight_map"][name] == part}
        save_file(ours, parts / part)
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    same(llama.load(parts)[1], expected)


def test_options_of_other_versions_are_the_same_model(tmp_path):
    """θ where older files have it, what is left out, and a Mistral without a window."""
    tensors, cfg = load_file(FOLDER / "model.safetensors"), llama.load(FOLDER)[0]
    older = {"rope_parameters": None, "rope_theta": 50, "rope_scaling": None, "head_dim": None}
    unscaled = {"rope_scaling": {"type": "default"}, "rope_theta": 50.0}
    mistral = {"model_type": "mistral", "sliding_window": None}
    for number, options in enumerate((older, unscaled, mistral)):
        assert llama.load(folder(tmp_path / str(number), tensors, **options))[0] == cfg
    path = folder(tmp_path / "few", random_tensors(4, dtype=np.float32))
    few = {"model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS}
    (path / "config.json").write_text(json.dumps(few))
    found = llama.load(path)[0]
    assert (found.num_kv_heads, found.rope_theta, found.norm_epsilon) == (0, 10000.0, 1e-6)
    assert (found.head_dim, found.max_position, found.tied) == (K, 2048, False)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model_type": "qwen2"}, "model_type: found 'qwen2', accepted: llama or mistral"),
        ({"model_type": "mistral"}, "sliding_window: found nothing"),
        ({"sliding_window": 4096}, "sliding_window: found 4096, accepted: null"),
        ({"rope_parameters": LLAMA3}, "rope_parameters: rope_type: found 'llama3', accepted: def"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling: type: found 'linear'"),
        ({"rope_scaling": "yarn"}, "rope_scaling: found 'yarn', accepted: null"),
        ({"rope_theta": 40.0}, "rope_parameters: rope_theta: found 50.0, accepted: 40.0"),
        ({"rope_interleaved": True}, "rope_interleaved: found True, accepted: false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, accepted: 1.0"),
        ({"attention_bias": True}, "attention_bias: found True, accepted: false"),
        ({"mlp_bias": True}, "mlp_bias: found True, accepted: false"),
        ({"hidden_act": "gelu"}, "hidden_act: found 'gelu', accepted: silu"),
        ({"rms_norm_eps": 0}, "rms_norm_eps: found 0, accepted: a number > 0"),
        ({"num_attention_heads": "4"}, "num_attention_heads: found '4', accepted: a whole"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: found 3, accepted: a divisor of"),
        ({"num_attention_heads": 3, "head_dim": None}, "hidden_size: found 16, accepted: a mul"),
        ({"num_attention_heads": 8}, "q_proj.weight: found shape .16, 16., accepted: shape .32"),
        ({"num_key_value_heads": 1}, "k_proj.weight: found shape .8, 16., accepted: shape .4, 1"),
        ({"hidden_size": 32}, "hidden_size: found 16 in the tensors, accepted: 32 as config"),
        ({"num_hidden_layers": 3}, "num_hidden_layers: found 2 in the tensors"),
        ({"attention_dropout": 1.0}, "attention_dropout: found 1.0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: found 1, accepted: true or false"),
        ({"inf_former": {"nothing": 1}}, "inf_former: nothing: found such a field"),
        ({"inf_former": {"mem_len": -1}}, "mem_len: found -1"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split(":")[0],
)
def test_what_we_do_not_compute_is_refused(options, match, tmp_path):
    """By the option's name, in one line that names the file."""
    path = folder(tmp_path / "given", load_file(FOLDER / "model.safetensors"), **options)
    with pytest.raises(ValueError, match=match) as error:
        llama.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_tensors_that_are_not_a_llamas_are_refused(tmp_path):
    """A bias, a missing output matrix, no config.json."""
    tensors = load_file(FOLDER / "model.safetensors")
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)}
    headless = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    for given, match in (
        (tensors | bias, r"q_proj\.bias: found such a tensor"),
        (headless, r"lm_head\.weight: found no such tensor"),
    ):
        with pytest.raises(ValueError, match=match):
            llama.load(folder(tmp_path / "given", given))
    (tmp_path / "given" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: found nothing, accepted: one beside"):
        llama.load(tmp_path / "given")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"position": "learned"}, "position"),
        ({"norm_kind": "layer"}, "norm_kind"),
        ({"activation": "gelu"}, "activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"norm": "post"}, "norm"),
    ],
)
def test_only_a_llama_is_saved(change, name, tmp_path):
    """Nothing is written of another."""
    cfg, params = llama.load(FOLDER)
    with pytest.raises(ValueError, match=rf"^{name}: found .* in a Llama"):
        llama.save(dataclasses.replace(cfg, **change), params, tmp_path / "new")
    assert not (tmp_path / "new").exists()
