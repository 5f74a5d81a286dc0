"""Long-term attention and the whole decoder against the published ones, in float64 and float32."""

from functools import cached_property, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.memory import long_term, state
from inf_former_jax.models import decoder
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.convert import published
from tests import golden
from tests.golden import relative_error

pytestmark = pytest.mark.parametrize(
    "dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)], ids=["x64", "f32"]
)

# Largest relative error: (float64, float32).
ONE_STEP = (1e-8, 1e-4)
OUTPUT = (1e-8, 1e-3)
COEFFS = (1e-8, 2e-3)
GRADIENT = (1e-8, 2e-3)

IGNORED = 21  # target that carries no loss


def check(actual, expected, tolerances):
    """Relative error within the tolerance of the result's own precision."""
    assert actual.dtype in (np.float64, np.float32)
    tolerance = tolerances[0 if actual.dtype == np.float64 else 1]
    assert relative_error(actual, expected) <= tolerance


def check_trees(actual, expected, tolerances):
    """The same tree of parameters; each leaf within the tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: check(a, b, tolerances), actual, expected)


def cast(tree, dtype):
    """All floating-point leaves in `dtype`, integers as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, tree)


# LongTermAttention


def attention_config(arrays) -> long_term.LongTermConfig:
    """The memory of an attention file."""
    published_gpt2 = "norm" not in arrays
    return long_term.LongTermConfig(
        num_basis=int(arrays["num_basis"]),
        widths=tuple(map(float, arrays["sigmas"])),
        ridge=float(arrays["ridge"]),
        tau=float(arrays["tau"]),
        num_samples=int(arrays["nb_samples"]),
        sticky=published_gpt2,
        min_var=1e-4 if published_gpt2 else 1e-6,
        prior_scale=float(arrays["kl_sigma_0"]),
        # The published GPT-2 copy inverts the test: a prior mean of -1 adds the mean's term.
        prior_mean=None if np.isnan(arrays["kl_mu_0"]) else float(arrays["kl_mu_0"]),
        gate=bool(arrays["use_mask"]),
        density="sparsemax" if str(arrays.get("norm")) == "sparsemax" else "gaussian",
    )


def attention_params(weights, num_heads):
    """Published tensors -> parameters of `LongTermAttention`; missing ones are zeros.

    Written out here and not taken from `published`, so that the two check one another.
    """
    key = weights["proj_key.weight"]
    inward = lambda w: w.T.reshape(len(key), num_heads, -1)  # noqa: E731
    read = {
        "key": inward(key),
        "value": inward(weights["proj_value.weight"]),
        "out": weights["attn_out.weight"].T.reshape(num_heads, -1, len(key)),
        "mu": weights["mu.weight"][0],
        "sigma": weights["sigma.weight"][0],
    }
    if "mask_net.weight" not in weights:
        return {"read": read}
    kernel = weights["mask_net.weight"].transpose(2, 1, 0)
    return {"read": read, "gate": {"kernel": kernel, "bias": weights["mask_net.bias"]}}


def batch_first(arrays, s):
    """What segment s writes [B, L, E] and its queries [B, H, T, K]."""
    x, q = arrays[f"k_{s}"], arrays[f"q_{s}"]
    return (x, q) if q.ndim == 4 else (x.swapaxes(0, 1), queries_by_head(arrays, q))


def queries_by_head(arrays, q):
    """[T, B, E] -> [B, H, T, K]."""
    length, batch, _ = q.shape
    return q.reshape(length, batch, int(arrays["n_head"]), -1).transpose(1, 2, 0, 3)


def step(model, operators, params, memory, x, q, locations=None):
    """Write, then read: (memory, context, info)."""
    variables = {"params": params}
    memory = model.apply(
        variables, memory, x, operators=operators, locations=locations, method="write"
    )
    context, memory, info = model.apply(variables, q, memory)
    return memory, context, info


def attention_setup(arrays, dtype):
    """Model, step with its operators bound as a runtime argument, parameters, empty memory."""
    cfg = attention_config(arrays)
    model = LongTermAttention(cfg)
    params = attention_params(golden.under(arrays, "param."), int(arrays["n_head"]))
    x, _ = batch_first(arrays, 0)
    operators = long_term.operators(cfg, x.shape[1])
    run = partial(golden.jit(partial(step, model)), operators)
    return model, run, cast(params, dtype), long_term.init(cfg, *x.shape[::2], dtype)


def flat(x):
    """[B, H, T] -> [B, H·T], as the published regulariser is stored."""
    return x.reshape(len(x), -1)


def check_attention(arrays, s, memory, context, info):
    """Everything that the file holds of segment s."""
    one = ONE_STEP if s == 0 else OUTPUT
    context = context.swapaxes(0, 1) if f"mu_{s}" in arrays else context
    check(memory.coeffs, arrays[f"B_{s}"], ONE_STEP if s == 0 else COEFFS)
    check(context, arrays[f"context_{s}"], one)
    if f"mu_{s}" in arrays:
        check(info["density"].mean, arrays[f"mu_{s}"], one)
        check(info["density"].var, arrays[f"sigma_sq_{s}"], one)
    else:
        check(flat(info["density"].mean), arrays[f"attn_mu_{s}"], one)
        check(jnp.sqrt(flat(info["density"].var)), arrays[f"attn_sigma_{s}"], one)
    if arrays["use_kl"]:
        check(flat(info["kl"]), arrays[f"kl_reg_{s}"], one)


ATTENTION = [f"e_ltm_forward_{i}" for i in range(5)]
#: Of these the gradients too are tested quickly: two are of either density, two are decoders.
QUICK = ("e_ltm_forward_0", "e_ltm_forward_3", "f_memtransformer_1", "g_transformerxl_0")


def test_both_densities_are_tested(dtype):
    """No file is left out, and one of them is of continuous sparsemax."""
    assert sorted(path.stem for path in golden.FOLDER.glob("e_*.npz")) == ATTENTION
    assert [str(golden.load(name)["norm"]) for name in ATTENTION].count("sparsemax") == 1


@pytest.mark.parametrize("name", [*ATTENTION, "h_gpt2_forward"])
def test_attention(name, dtype):
    """Three segments with the memory carried; the sticky file with the published locations."""
    arrays = golden.load(name)
    with golden.precision(dtype):
        _, run, params, memory = attention_setup(arrays, dtype)
        for s in range(3):
            if f"p_{s}" in arrays:
                check(memory.salience, arrays[f"p_{s}"], ONE_STEP if s == 1 else OUTPUT)
            locations = arrays.get(f"sample_positions_{s}")
            locations = None if locations is None else locations.astype(dtype)
            x, q = cast(batch_first(arrays, s), dtype)
            memory, context, info = run(params, memory, x, q, locations)
            check_attention(arrays, s, memory, context, info)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ATTENTION]
)
def test_gradients_of_attention(name, dtype):
    """Of the last segment, the memory before it being constant."""
    arrays = golden.load(name)
    cotangent = arrays["context_2_cotangent"].swapaxes(0, 1).astype(dtype)
    kl_cotangent = arrays.get("kl_reg_2_cotangent", np.zeros(())).astype(dtype)

    def objective(params, x, q, operators, memory):
        _, context, info = step(model, operators, params, memory, x, q)
        loss = (context * cotangent).sum()
        return loss + (flat(info["kl"]) * kl_cotangent).sum() if kl_cotangent.ndim else loss

    with golden.precision(dtype):
        model, run, params, memory = attention_setup(arrays, dtype)
        for s in range(2):
            memory, _, _ = run(params, memory, *cast(batch_first(arrays, s), dtype))
        gradient = golden.jit(jax.grad(objective, (0, 1, 2)))
        x, q = cast(batch_first(arrays, 2), dtype)
        operators = long_term.operators(model.cfg, x.shape[1])
        grad_params, grad_x, grad_q = gradient(params, x, q, operators, memory)
    expected = attention_params(golden.under(arrays, "grad."), int(arrays["n_head"]))
    check_trees(grad_params, expected, GRADIENT)
    check(grad_x.swapaxes(0, 1), arrays["grad.k_2"], GRADIENT)
    check(grad_q, queries_by_head(arrays, arrays["grad.q_2"]), GRADIENT)


# Decoder


DECODERS = ["f_memtransformer_0", "f_memtransformer_1"] + [f"g_transformerxl_{i}" for i in range(3)]


@lru_cache  # two tests share the compiled segments
class Published:
    """A decoder file: the loaded model, its jitted segment, tokens and targets [B, T]."""

    def __init__(self, name, dtype):
        self.arrays = golden.load(name)
        weights = golden.under(self.arrays, "param.")
        self.cfg, self.params = self.loaded({k: v.astype(dtype) for k, v in weights.items()})
        self.model = decoder.Decoder(self.cfg)
        self.operators = decoder.operators(self.cfg)
        self.segments = range(len(self.arrays["cfg.seg_lens"]))
        self.tokens = [self.arrays[f"tokens_{s}"].T for s in self.segments]
        self.run = golden.jit(self.apply)
        self.empty = state.init(self.cfg, len(self.tokens[0]), dtype=dtype)

    def loaded(self, tensors):
        """Configuration and parameters, through the loader under test."""
        return published.load(tensors, **golden.under(self.arrays, "cfg."))

    def apply(self, params, operators, memory, tokens):
        """One segment."""
        return self.model.apply({"params": params}, tokens, memory, operators=operators)

    @cached_property
    def outputs(self):
        """`Output` of each segment in turn, the memory carried."""
        outputs, memory = [], self.empty
        for tokens in self.tokens:
            outputs.append(self.run(self.params, self.operators, memory, tokens))
            memory = outputs[-1].memory
        return outputs

    def total_loss(self, params, operators, memory, segments, targets):
        """Cross-entropy of the last segment's targets that count, plus the weighted mean KL."""
        for tokens in segments:
            output = self.apply(params, operators, memory, tokens)
            memory = output.memory
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, targets)
        loss = losses.mean(where=targets != IGNORED)
        if "kl" not in output.aux:
            return loss
        total, count = output.aux["kl"]
        return loss + float(self.arrays["cfg.kl_m"]) * total / count

    def expected_gradients(self):
        """The published gradients as our parameters: the loader only renames and transposes."""
        grads = golden.under(self.arrays, "grad.")
        weights = golden.under(self.arrays, "param.")
        return self.loaded({k: grads.get(k, np.zeros_like(w)) for k, w in weights.items()})[1]


def check_long_term(arrays, s, output):
    """Densities, coefficients and KL of segment s; where the file has none, an empty memory."""
    if f"kl_reg_{s}" not in arrays:
        assert all((layer.long_term.writes == 0).all() for layer in output.memory.layers)
        assert output.aux["kl"] == (0, 0)
        return
    for i, (info, layer) in enumerate(zip(output.info, output.memory.layers, strict=True)):
        at = f"_seg{s}_layer{i}"
        check(info["density"].mean, arrays["mu" + at], OUTPUT)
        check(info["density"].var, arrays["sigma_sq" + at], OUTPUT)
        check(layer.long_term.coeffs, arrays["B" + at], COEFFS)
    check(flat(sum(info["kl"] for info in output.info)), arrays[f"kl_reg_{s}"], OUTPUT)
    total, count = output.aux["kl"]
    check(total / count, arrays[f"kl_reg_{s}"].mean(), OUTPUT)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, dtype):
    with golden.precision(dtype):
        case = Published(name, dtype)
        arrays = case.arrays
        for s, output in enumerate(case.outputs):
            hidden = arrays.get(f"hidden_{s}")
            expected = arrays["logits"].swapaxes(0, 1)
            if hidden is not None:
                expected = hidden.swapaxes(0, 1) @ arrays["param.proj_output.weight"].T
            check(output.logits, expected, OUTPUT)
            if case.cfg.long_term is not None:
                check_long_term(arrays, s, output)
    for i, layer in enumerate(output.memory.layers):
        check(layer.fifo.swapaxes(0, 1), arrays[f"final_mems_{i}"], OUTPUT)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in DECODERS]
)
def test_gradients_of_the_decoder(name, dtype):
    """Of the last segment's total loss; memory that the segment before it made is a constant."""
    with golden.precision(dtype):
        case = Published(name, dtype)
        memory = case.outputs[-3].memory
        targets = case.arrays[f"targets_{case.segments[-1]}"].T
        gradient = golden.jit(jax.value_and_grad(case.total_loss))
        loss, grads = gradient(case.params, case.operators, memory, case.tokens[-2:], targets)
        check(loss, case.arrays["total_loss"], OUTPUT)
        check_trees(grads, case.expected_gradients(), GRADIENT)


def test_the_loader_of_one_attention(dtype):
    """`published.long_term_params` agrees with the renaming written out above."""
    arrays = golden.load("e_ltm_forward_0")
    weights = cast(golden.under(arrays, "param."), dtype)
    ours = published.long_term_params(weights, num_heads=2)
    jax.tree.map(np.testing.assert_array_equal, ours, attention_params(weights, 2))
