"""The door to published models: config.json decides which loader reads a folder."""

import json

import pytest

from inf_former_jax.models.convert import gpt2, hugging_face, llama
from tests import golden
from tests.models.convert import test_gpt2, test_llama


@pytest.mark.parametrize("name, loader", [("gpt2", gpt2), ("llama", llama)])
def test_the_model_type_decides(name, loader):
    """A folder, or the file in it."""
    expected = loader.load(golden.FOLDER / name)
    for path in (golden.FOLDER / name, golden.FOLDER / name / "model.safetensors"):
        cfg, params = hugging_face.load(path)
        assert cfg == expected[0]
        test_gpt2.same(params, expected[1])


def test_a_mistral_is_a_llama(tmp_path):
    options = {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 2}
    tensors = test_llama.random_tensors(2)
    cfg, _ = hugging_face.load(test_llama.folder(tmp_path / "mistral", tensors, **options))
    assert (cfg.position, cfg.num_kv_heads) == ("rotary", 2)


@pytest.mark.parametrize("kind", ["qwen2", None, 5, ["gpt2"]])
def test_another_model_is_refused(tmp_path, kind):
    """In one line: where, what it is, and what is accepted."""
    path = test_gpt2.folder(tmp_path / "other")
    options = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(options | {"model_type": kind}))
    with pytest.raises(ValueError) as refused:
        hugging_face.load(path)
    where = f"{path / 'config.json'}: model_type"
    assert str(refused.value) == f"{where}: found {kind!r}, accepted: gpt2, llama or mistral"


def test_without_a_config_it_is_asked_for_as_of_a_gpt2(tmp_path):
    path = test_gpt2.folder(tmp_path / "bare")
    (path / "config.json").unlink()
    with pytest.raises(ValueError) as expected:
        gpt2.load(path)
    with pytest.raises(ValueError, match=r"config\.json: found nothing, accepted: ") as refused:
        hugging_face.load(path)
    assert str(refused.value) == str(expected.value)
    with pytest.raises(FileNotFoundError):
        hugging_face.load(tmp_path / "nowhere")
