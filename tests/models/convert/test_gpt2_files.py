"""Folders of GPT-2's files: none that is damaged, foreign or mixed is taken for another model."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.models.convert import gpt2
from tests import damage
from tests.models.convert import test_gpt2
from tests.models.convert.test_gpt2 import (
    HEADS,
    MEMORY,
    VOCAB,
    WIDTH,
    B,
    T,
    call,
    decode,
    folder,
    same,
    tensors,
    tokens,
    without,
)

FLOAT32 = tensors(dtype=np.float32)


def index_of(path, files):
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def sharded(path, weights=FLOAT32):
    """A folder whose layers are in a file of their own each."""
    folder(path)
    (path / "model.safetensors").unlink()
    number = {name: int(name[2]) + 1 if name[:2] == "h." else 1 for name in weights}
    files = {name: f"model-0000{n}-of-00002.safetensors" for name, n in number.items()}
    for file in set(files.values()):
        save_file({k: weights[k] for k in weights if files[k] == file}, path / file)
    index_of(path, files)
    return path


def edited(path, **options):
    """The folder with other options in its config.json."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | options))
    return path


# Exact GELU and an output matrix of its own


@pytest.mark.parametrize("tied", [True, False])
def test_exact_gelu_and_heads_of_their_own_are_the_oracles(tied, tmp_path, monkeypatch):
    """Logits in float64 against naive NumPy, whose GELU is x·Φ(x) by the error function."""
    erf = np.vectorize(math.erf)
    monkeypatch.setattr(test_gpt2, "gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))))
    weights, head = tensors(3), np.random.default_rng(4).normal(size=(VOCAB, WIDTH))
    given = weights if tied else weights | {"lm_head.weight": head}
    options = {"activation_function": "gelu", "tie_word_embeddings": tied}
    with jax.enable_x64(True):
        cfg, params = gpt2.load(folder(tmp_path / "given", given, **options))
        assert (cfg.activation, cfg.tied) == ("gelu_exact", tied)
        cfg = dataclasses.replace(cfg, segment_len=T)
        out = call(cfg)(params, tokens(1), state.init(cfg, B, np.float64))
        rows = [
            np.concatenate(decode(weights, [row], head=None if tied else head)) for row in tokens(1)
        ]
        np.testing.assert_allclose(out.logits, np.stack(rows), rtol=1e-9, atol=1e-9)
    gpt2.save(cfg, params, tmp_path / "ours")
    again, loaded = gpt2.load(tmp_path / "ours")
    assert again == cfg
    same(loaded, params)
    same(load_file(tmp_path / "ours" / "model.safetensors"), given)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {name: written[name] for name in options} == options


def test_an_output_matrix_is_tied_or_its_own():
    """Without a config.json by its numbers; with one it has to be what that says."""
    head = FLOAT32["wte.weight"] + 1
    own, params = gpt2.load(FLOAT32 | {"lm_head.weight": head}, num_heads=HEADS)
    assert not own.tied
    np.testing.assert_array_equal(params["logits"]["kernel"], head.T)
    same_head = FLOAT32 | {"lm_head.weight": FLOAT32["wte.weight"].copy()}
    assert gpt2.load(same_head, num_heads=HEADS)[0].tied


@pytest.mark.parametrize(
    "weights, tied, match",
    [
        (
            FLOAT32 | {"lm_head.weight": FLOAT32["wte.weight"] + 1},
            True,
            "found another mat",
        ),
        (
            FLOAT32,
            False,
            "lm_head.weight: found no such tensor, accepted: one",
        ),
        (
            FLOAT32 | {"lm_head.weight": FLOAT32["wte.weight"].T.copy()},
            False,
            r"found shape \(16, 4",
        ),
        (FLOAT32, "no", "tie_word_embeddings: found 'no', accepted: true or false"),
    ],
)
def test_an_output_matrix_that_config_json_contradicts_is_refused(tmp_path, weights, tied, match):
    path = folder(tmp_path / "given", weights, tie_word_embeddings=tied)
    with pytest.raises(ValueError, match=match):
        gpt2.load(path)


# config.json


def test_other_names_of_options_are_understood(tmp_path):
    """Those of transformers' attribute map: alone, agreeing, and disagreeing."""
    path = folder(tmp_path / "given")
    config = json.loads((path / "config.json").read_text())
    for alias, name, wrong in (
        ("num_attention_heads", "n_head", 4),
        ("num_hidden_layers", "n_layer", 3),
        ("hidden_size", "n_embd", 32),
        ("max_position_embeddings", "n_positions", 8),
    ):
        alone = without(config, name) | {alias: config[name]}
        for options in (alone, config | {alias: config[name]}):
            (path / "config.json").write_text(json.dumps(options))
            assert gpt2.load(path)[0].num_heads == HEADS
        (path / "config.json").write_text(json.dumps(config | {alias: wrong}))
        message = rf"config\.json: {alias}: found {wrong}, accepted: {config[name]} as {name} says"
        with pytest.raises(ValueError, match=message):
            gpt2.load(path)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"resid_pdrop": None}, "resid_pdrop: found None, accepted: a number in"),
        ({"attn_pdrop": "0.1"}, "attn_pdrop: found '0.1', accepted: a number in"),
        ({"embd_pdrop": 1.5}, "embd_pdrop: found 1.5, accepted: a number in"),
        ({"n_head": None}, "num_heads: found None, accepted: a divisor of the width 16"),
        ({"n_head": True}, "num_heads: found True"),
        ({"n_inner": None}, "n_inner: found 24 in the tensors, accepted: 64 as config.json says"),
        ({"n_inner": 32}, "n_inner: found 24 in the tensors, accepted: 32 as config.json says"),
        ({"scale_attn_weights": 1}, "scale_attn_weights: found 1, accepted: True"),
        ({"activation_function": None}, "activation_function: found None, accepted: gelu_new or"),
        ({"inf_former": 5}, "inf_former: found 5, accepted: an object"),
        ({"inf_former": {"weights": 5}}, "inf_former: weights: found 5, accepted: a text"),
        ({"resid_pdrop": 0.1, "inf_former": {"segment_len": -1}}, "segment_len: found -1"),
        ({"inf_former": {"long_term": 5}}, "inf_former: long_term: found 5, accepted: an object"),
        (
            {"inf_former": {"long_term": {"a": 5}}},
            r"long_term\.a: found such a field, accepted: tho",
        ),
        ({"inf_former": {"long_term": {"tau": None}}}, "long_term: .*found .*, accepted"),
        ({"inf_former": {"d_model": 16}}, "inf_former: d_model: found such a field"),
        ({"inf_former": {"norm": "post"}}, "inf_former: norm: found such a field"),
    ],
)
def test_options_of_wrong_types_are_refused(tmp_path, options, match):
    with pytest.raises(ValueError, match=f"{match}.*") as refused:
        gpt2.load(folder(tmp_path / "given", **options))
    assert damage.DIALECT.fullmatch(str(refused.value))
    place = "model.safetensors" if "n_inner" in options else "config.json"
    assert str(refused.value).startswith(f"{tmp_path / 'given' / place}: ")


def test_a_null_n_inner_is_four_times_the_width(tmp_path):
    rng, weights = np.random.default_rng(0), dict(FLOAT32)
    for j in range(2):
        weights[f"h.{j}.mlp.c_fc.weight"] = rng.normal(size=(WIDTH, 64)).astype(np.float32)
        weights[f"h.{j}.mlp.c_fc.bias"] = rng.normal(size=64).astype(np.float32)
        weights[f"h.{j}.mlp.c_proj.weight"] = rng.normal(size=(64, WIDTH)).astype(np.float32)
    assert gpt2.load(folder(tmp_path / "given", weights, n_inner=None))[0].d_inner == 64


# Weights


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(number):
    """By the tensor's name; in half precision, too."""
    for dtype in (np.float32, np.float16, jax.numpy.bfloat16):
        wrong = {name: tensor.astype(dtype) for name, tensor in FLOAT32.items()}
        wrong["h.1.ln_2.bias"][3:5] = number
        match = rf"h\.1\.ln_2\.bias: found 2 times {number}, accepted: finite numbers"
        with pytest.raises(ValueError, match=match):
            gpt2.load(wrong, num_heads=HEADS)


def test_weights_that_overflow_where_they_are_computed_are_refused():
    """Numbers of float64 beyond float32, unless float64 is what is computed in."""
    wrong = tensors(dtype=np.float64)
    wrong["h.1.ln_2.bias"][3] = 7e299
    match = r"h\.1\.ln_2\.bias: found 1 times 7e\+299, accepted: finite numbers of float32"
    with pytest.raises(ValueError, match=match):
        gpt2.load(wrong, num_heads=HEADS)
    with jax.enable_x64(True):
        assert gpt2.load(wrong, num_heads=HEADS)[1]["positions"].dtype == np.float64


@pytest.mark.parametrize(
    "files, match",
    [
        ({}, r"weight_map: found \{\}, accepted: an object of names"),
        ({"a": 5}, "weight_map: found {'a': 5}, accepted"),
        ({"a": None}, "weight_map: found {'a': None}, accepted"),
        ({"a": "../elsewhere"}, "weight_map: found .*elsewhere"),
        (None, "weight_map: found None, accepted"),
        ({"wte.weight": "model-00001-of-00002.safetensors"}, r"h\.0\..*: found a tensor, accepted"),
        (
            {"wte.weight": "model-00002-of-00002.safetensors"},
            ": found .*, accepted: those of ",
        ),
        ({"wte.weight": "gone"}, "gone: found nothing, accepted: a whole safetensors file"),
    ],
)
def test_damaged_indices_are_refused(tmp_path, files, match):
    path = sharded(tmp_path / "parts")
    same(gpt2.load(path)[1], gpt2.load(FLOAT32, num_heads=HEADS)[1])
    index_of(path, files)
    with pytest.raises((ValueError, FileNotFoundError), match=match) as refused:
        gpt2.load(path)
    assert damage.DIALECT.fullmatch(str(refused.value))


# Saving over a folder


def tokenizer(path, name):
    """A folder with a tokeniser's files; what is in them does not matter here."""
    path.mkdir(exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (path / file).write_text(f'{{"{name}": 1}}')
    return path


def names(path):
    return {file.name for file in path.iterdir()}


def test_a_saved_model_takes_the_place_of_all_that_was_there(tmp_path):
    """A sharded one with a tokeniser of two files, by one with two other files."""
    path = tokenizer(sharded(tmp_path / "model"), "old")
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    for number, file in enumerate(sorted({*index.values()})):  # of another tool
        (path / file).rename(path / f"part{number}.safetensors")
        index = {k: f"part{number}.safetensors" if v == file else v for k, v in index.items()}
    index_of(path, index | {"a": "README.md", "b": "../given/x.safetensors", "c": None})
    (path / "generation_config.json").write_text('{"eos_token_id": 3}')
    (path / "README.md").write_text("mine")
    given = tmp_path / "given"
    given.mkdir()
    (given / "vocab.json").write_text("{}")
    (given / "x.safetensors").write_text("not of this folder")
    (given / "merges.txt").write_text("#version: 0.2\n")
    cfg, params = gpt2.load(tensors(seed=5, dtype=np.float32), num_heads=HEADS)
    gpt2.save(cfg, params, path, tokenizer=given, eos=7, bos=8)
    same(gpt2.load(path)[1], params)
    ours = {"config.json", "model.safetensors", "vocab.json", "merges.txt"}
    assert names(path) == ours | {"README.md"}
    config = json.loads((path / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (7, 8)
    assert (path / "vocab.json").read_bytes() == b"{}" and (given / "x.safetensors").exists()
    gpt2.save(cfg, params, path, tokenizer=path)  # its own
    assert names(path) == ours | {"README.md"}
    gpt2.save(cfg, params, path)  # as many ids: the tokeniser stays
    assert names(path) == ours | {"README.md"}
    assert "eos_token_id" not in json.loads((path / "config.json").read_text())


def test_what_cannot_be_saved_leaves_the_folder_as_it_was(tmp_path):
    """A tokeniser of another vocabulary, one that is none, ids that are none."""
    path = tokenizer(folder(tmp_path / "model"), "old")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    cfg, params = gpt2.load(FLOAT32, num_heads=HEADS)
    larger = dataclasses.replace(cfg, vocab_size=VOCAB + 1)
    grown = gpt2.grow(params, VOCAB + 1, jax.random.key(0))
    (tmp_path / "empty").mkdir()
    for options, match in (
        ({}, r"tokenizer\.json: found the tokeniser of a model of 40 ids, accepted: tokenizer="),
        ({"tokenizer": tmp_path / "empty"}, "tokenizer: .*empty: found no tokeniser, accepted"),
        ({"tokenizer": tmp_path / "gone"}, "gone: found nothing, accepted: a tokenizer.json"),
        ({"eos": 41}, "^eos: found 41, accepted: an id 0 … 40"),
        ({"bos": -1}, "^bos: found -1, accepted: an id 0 … 40"),
        ({"eos": True}, "^eos: found True, accepted: an id 0 … 40"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            gpt2.save(larger, grown, path, **options)
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    with pytest.raises(ValueError, match=r"config.json: found file exists, accepted: "):
        gpt2.save(cfg, params, path / "config.json")
    gpt2.save(larger, grown, path, tokenizer=tokenizer(tmp_path / "new", "new"))
    assert gpt2.load(path)[0].vocab_size == VOCAB + 1
    assert (path / "tokenizer.json").read_text() == '{"new": 1}'


def test_two_saves_are_not_mixed(tmp_path):
    """The weights of one with the config.json of another are refused; those of other tools not."""
    cfg, params = gpt2.load(FLOAT32, num_heads=HEADS)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    gpt2.save(cfg, params, tmp_path / "a")
    gpt2.save(cfg, other, tmp_path / "b")
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b")
    with pytest.raises(ValueError, match=r"config\.json: inf_former: weights: found \w+, another"):
        gpt2.load(tmp_path / "b")
    save_file(load_file(tmp_path / "b" / "model.safetensors"), tmp_path / "b" / "model.safetensors")
    same(gpt2.load(tmp_path / "b")[1], other)  # as another tool writes it


# Fuzz


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with both memories that `save` wrote, its configuration and parameters."""
    path = tmp_path_factory.mktemp("fuzz") / "model"
    plain, params = gpt2.load(FLOAT32, num_heads=HEADS)
    cfg = dataclasses.replace(
        plain,
        segment_len=T,
        long_term=MEMORY,
        compressed=CompressedConfig(2, 8),
        activation="gelu_exact",
    )
    params = jax.tree.map(np.asarray, gpt2.graft(cfg, params, jax.random.key(0)))
    gpt2.save(cfg, params, path)
    return path, cfg, params


def copy_of(folder, tmp_path_factory):
    """A folder whose files one example may damage."""
    copied = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(folder, copied)
    return copied


def written(path, raw):
    path.write_bytes(raw)
    return damage.answer(lambda: gpt2.load(path.parent))


@settings(max_examples=40, derandomize=True)
@given(st.data())
def test_damaged_weights_are_refused_or_the_same(saved, tmp_path_factory, data):
    """Any byte of what `save` wrote: its digest tells."""
    path, cfg, params = saved
    copied = copy_of(path, tmp_path_factory)
    raw = data.draw(damage.bytes_of((path / "model.safetensors").read_bytes()))
    answer = written(copied / "model.safetensors", raw)
    if answer is not None:
        assert answer[0] == cfg
        same(answer[1], params)


@settings(max_examples=50, derandomize=True)
@given(st.data())
def test_damaged_configs_are_refused_or_say_what_they_say(saved, tmp_path_factory, data):
    """Bytes and single options, at any depth: a model of other options is never the saved one."""
    path, _, params = saved
    copied = copy_of(path, tmp_path_factory)
    whole = (path / "config.json").read_text()
    if data.draw(st.booleans()):
        answer = written(copied / "config.json", data.draw(damage.bytes_of(whole.encode())))
    else:
        options = json.loads(whole)
        place = options
        while True:
            name = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[name], dict) or data.draw(st.booleans()):
                break
            place = place[name]
        place[name] = data.draw(damage.VALUES | st.just(place[name]))
        answer = written(copied / "config.json", json.dumps(options).encode())
    if answer is not None:
        gpt2.save(*answer, copied / "again")
        assert gpt2.load(copied / "again")[0] == answer[0]
        same(answer[1], params)


@settings(max_examples=20, derandomize=True)
@given(st.data())
def test_damaged_indices_are_refused_or_the_same(tmp_path_factory, data):
    root = tmp_path_factory.getbasetemp()
    path = sharded(root / "sharded")
    index = path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    if data.draw(st.booleans()):
        raw = data.draw(damage.bytes_of(index.read_bytes()))
    else:
        value = damage.VALUES | st.sampled_from(
            sorted({*told["weight_map"].values(), ".", "config.json"})
        )
        name = data.draw(st.sampled_from(sorted(told["weight_map"])))
        told["weight_map"][name] = data.draw(value | st.just(told["weight_map"][name]))
        raw = json.dumps(data.draw(st.sampled_from([told, told["weight_map"]]))).encode()
    answer = written(index, raw)
    if answer is not None:
        same(answer[1], gpt2.load(FLOAT32, num_heads=HEADS)[1])
