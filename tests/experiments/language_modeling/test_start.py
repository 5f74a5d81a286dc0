"""What a run begins with: what GPT-2's files decide on, and their end token."""

import dataclasses

import numpy as np

from experiments.language_modeling import start
from experiments.language_modeling.config import small
from inf_former_jax.models import presets
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
