"""What a run begins with: what published files decide on, and their end token."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.language_modeling import start
from experiments.language_modeling.config import small
from experiments.run import folders
from inf_former_jax.models import presets
from tests import golden
from tests.data.test_tokens import write_end, write_pair
from tests.models.convert.test_gpt2 import HEADS, VOCAB, WIDTH, folder, tensors


def test_given_files_decide_on_what_is_computed(tmp_path):
    """Exact GELU and an output matrix of their own, also for more ids; dropout is the run's."""
    head = np.ones((VOCAB, WIDTH), np.float32)
    weights = tensors(dtype=np.float32) | {"lm_head.weight": head}
    options = {"activation_function": "gelu", "tie_word_embeddings": False, "resid_pdrop": 0.3}
    path = folder(tmp_path / "gpt2", weights, **options)
    plain = presets.gpt2(segment_len=8, dropout=0.0)
    cfg = dataclasses.replace(small(), model=plain, init_from=str(path), batch_size=8)
    model = start.resolved(cfg, more_ids=2).model
    assert (model.activation, model.tied, model.dropout) == ("gelu_exact", False, 0.0)
    assert (model.num_heads, model.vocab_size, model.segment_len) == (HEADS, VOCAB + 2, 8)
    params = start.parameters(dataclasses.replace(cfg, model=model))
    kernel = params["logits"]["kernel"]
    assert kernel.shape == (WIDTH, VOCAB + 2)
    np.testing.assert_array_equal(kernel[:, :VOCAB], head.T)


def test_a_run_keeps_the_end_of_its_tokeniser(tmp_path):
    vocab, run = write_pair(tmp_path, more=("<x>",)), tmp_path / "run"
    write_end(tmp_path, tokenizer_config="<x>")
    run.mkdir()
    start.keep_tokenizer(start.tokenizer_of(str(tmp_path)), run)
    (run / "config.json").write_text('{"tokenizer": "elsewhere"}')
    assert start.tokenizer_of_run(run).end == vocab["<x>"]
    start.keep_tokenizer(start.tokenizer_of(str(tmp_path)), run)  # the same one


ROTARY = {"position": "rotary", "norm_kind": "rms", "activation": "swiglu", "num_kv_heads": 2}
LEARNED = {"position": "learned", "norm_kind": "layer", "activation": "gelu", "num_kv_heads": 0}
RELATIVE = {"position": "relative", "norm_kind": "layer", "activation": "relu", "num_kv_heads": 0}


@pytest.mark.parametrize("before", [ROTARY, LEARNED, RELATIVE], ids=lambda one: one["position"])
@pytest.mark.parametrize(
    "kind, expected", [("llama", ROTARY), ("gpt2", LEARNED), ("run", RELATIVE)]
)
def test_what_is_given_decides_on_positions_and_norms(tmp_path, before, kind, expected):
    """A published Llama, a published GPT-2 and a run of the paper's, whatever the preset has."""
    plain = dataclasses.replace(presets.gpt2(segment_len=8), num_heads=4, head_dim=4, **before)
    path = golden.FOLDER / kind
    if kind == "run":
        path = tmp_path
        (path / "metrics.jsonl").touch()
        model = presets.infinity_former(segment_len=8, mem_len=8)
        run = dataclasses.replace(small(), model=model, tokenizer="bytes")
        (path / "config.json").write_text(json.dumps(folders.to_json(run)))
    cfg = dataclasses.replace(small(), model=plain, init_from=str(path), tokenizer="bytes")
    model = start.resolved(cfg).model
    assert {name: getattr(model, name) for name in expected} == expected
    assert (model.attention_bias, model.final_norm) == (kind == "gpt2", kind != "run")
    assert model.norm == ("post" if kind == "run" else "pre")
    assert (model.segment_len, model.mem_len, model.dropout) == (8, 0, plain.dropout)
    if kind == "llama":
        assert (model.rope_theta, model.norm_epsilon, model.max_position) == (50.0, 1e-3, 16)
