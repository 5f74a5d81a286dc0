"""A published GPT-2 gets the same memory by the same commands as a Llama."""

import json
import shlex

import jax
import numpy as np
import pytest

from experiments.language_modeling import __main__ as language_modeling
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.passkey import __main__ as passkey
from experiments.run import training
from experiments.run.tables import CONTROL, TRAINED
from inf_former_jax.memory import state
from inf_former_jax.models import gpt2, presets
from inf_former_jax.models.decoder import Decoder
from tests.data.test_tokens import write_small
from tests.experiments.passkey.test_passkey import write_texts

pytestmark = pytest.mark.slow  # whole runs

T = 64
CELLS = f"--cells {2 * T} --cell-tau 0.5 --cells-kept attended --window {T} --segment-len {T}"
#: Learned positions have no distances, so that cells have no ages that a key could be turned by.
GIVEN = f"--model.cell-distance 0 --model.no-cells-by-age --model.segment-len {T}"
SMALL = f"--model.long-term-layers 1 --model.mem-len {T} --model.long-term.num-basis {2 * T}"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny random GPT-2 as it is saved."""
    root = tmp_path_factory.mktemp("published")
    write_small(root / "tokenizer")
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 4, "d_model": 16, "d_inner": 24}
    cfg = presets.gpt2(vocab_size=241, segment_len=T, max_position=T, **sizes)
    tokens, memory = np.zeros((1, 4), np.int32), state.init(cfg, 1)
    params = jax.jit(Decoder(cfg).init)(jax.random.key(0), tokens, memory)["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # far from uniform
    gpt2.save(cfg, params, root / "gpt2", tokenizer=root / "tokenizer")
    return root / "gpt2"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"), 1000)


def test_cells_without_training(published, data, tmp_path):
    """Perplexity by distance, and the passkey, with every control."""
    shared = shlex.split(f"--run {published} --data {data} {CELLS}")
    more = ["--by-distance", "8", "--splits", "test", "--out", str(tmp_path)]
    language_modeling.main(["evaluate", *shared, *more])
    (file,) = tmp_path.glob("evaluation-*.json")
    found = json.loads(file.read_text())["test"]
    assert found[TRAINED]["loss"] != found[CONTROL]["loss"]
    assert found[TRAINED]["by_distance"]
    task = shlex.split("--task.distances 1 3 --test-documents 2 --batch-size 8 --out")
    passkey.main(["evaluate", *shared, *task, str(tmp_path / "passkey")])
    found = json.loads((tmp_path / "passkey" / "evaluation.json").read_text())["test"]
    assert found[TRAINED]["loss"] != found[CONTROL]["loss"]


def test_the_memory_alone_is_trained(published, data, tmp_path):
    short = "--optim.steps 2 --optim.warmup-steps 1 --loop.eval-every 2 --batch-size 8"
    options = shlex.split(f"{GIVEN} {SMALL} {short} --data {data} --out {tmp_path / 'run'}")
    begun = ["--init-from", str(published)]
    language_modeling.main(["smollm2-infinity", *begun, *options])
    run = tmp_path / "run"
    _, _, params, _ = training.load(LanguageModelingConfig, run, ("params",))
    _, given = gpt2.load(published)
    for name, leaf in jax.tree.leaves_with_path(given):
        own = params
        for key in name:
            own = own[key.key]
        np.testing.assert_array_equal(np.asarray(own), leaf, err_msg=jax.tree_util.keystr(name))
    own = {jax.tree_util.keystr(name): leaf for name, leaf in jax.tree.leaves_with_path(params)}
    (turn,) = (leaf for name, leaf in own.items() if "turn" in name)
    assert np.abs(np.asarray(turn) - np.eye(4)).max() > 0
