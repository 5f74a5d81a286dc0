"""The read as a Pallas kernel: interpreted on the CPU, and lowered for a GPU that is not there."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from inf_former_jax.contrib import pallas_read
from inf_former_jax.memory import basis, long_term, read, state
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import sharding
from tests import oracle
from tests.golden import relative_error

B, H = 8, 1
# None of T, N and K is a whole number of tiles or a power of two, and N is no power of two of them.
LENGTH, COUNT, WIDTH, TILE = 19, 34, 3, 16
BASIS = basis.gaussian_basis(COUNT, (0.05, 0.2))


def inputs(batch=B, heads=H, dtype=np.float64):
    """mean, var, values, and weights that make a number of z."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(size=(batch, heads, LENGTH))
    var = np.exp(rng.uniform(-8, 0, size=mean.shape))
    values = rng.normal(size=(batch, heads, COUNT, WIDTH))
    weights = rng.normal(size=(batch, heads, LENGTH, WIDTH))
    return [a.astype(dtype) for a in (mean, var, values, weights)]


def by_kernel(mean, var, values):
    return pallas_read.expected_value(BASIS, GaussianDensity(mean, var), values, TILE)


def by_chunks(mean, var, values):
    return read.expected_value(BASIS, GaussianDensity(mean, var), values)


def weighed(function, mean, var, values, weights):
    z = function(mean, var, values)
    return (z * weights).sum(), z


def gradient(function):
    """((·, z), gradients of mean, var and values), compiled."""
    return jax.jit(jax.value_and_grad(partial(weighed, function), (0, 1, 2), has_aux=True))


OF_KERNEL = gradient(by_kernel)


def random_like(shapes):
    """Parameters of these shapes, the same each time."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)


def check_same(found, expected, tolerance):
    leaves = map(jax.tree.leaves, (found, expected))
    for number, (ours, theirs) in enumerate(zip(*leaves, strict=True)):
        assert relative_error(ours, theirs) < tolerance, number


def test_it_is_the_read_by_chunks():
    """Values and all three gradients in float64, of several heads."""
    with jax.enable_x64(True):
        arguments = inputs(2, 2)
        check_same(OF_KERNEL(*arguments), gradient(by_chunks)(*arguments), 1e-10)


def test_in_float32_it_is_the_oracle_and_under_vmap_each_row():
    """Against densities in NumPy's float64; rows by vmap, gradients of rows on their own."""
    arguments = inputs(dtype=np.float32)
    (_, z), grads = OF_KERNEL(*arguments)
    mean, var, values, _ = (np.asarray(a, np.float64) for a in arguments)
    r = oracle.normal(mean[..., None], BASIS.loc, var[..., None] + BASIS.scale**2)
    assert z.dtype == jnp.float32
    assert relative_error(z, np.einsum("bhtn,bhnk->bhtk", r, values)) < 1e-6
    rows = [a[:, None] for a in arguments]
    (_, z_by_row), by_row = jax.jit(jax.vmap(OF_KERNEL))(*rows)
    check_same((z_by_row[:, 0], [g[:, 0] for g in by_row]), (z, grads), 1e-6)


def test_over_a_mesh_it_is_the_same():
    """Rows over 8 devices."""
    arguments = inputs(dtype=np.float32)
    placed = jax.device_put(arguments, NamedSharding(sharding.make_mesh(), P("data")))
    check_same(OF_KERNEL(*placed), OF_KERNEL(*arguments), 1e-6)


def test_the_layer_takes_it_by_option():
    """LongTermAttention in float64: its gradients are those of the read by chunks."""
    cfg = long_term.LongTermConfig(num_basis=6, widths=(0.1, 0.3), num_samples=8, bins=8)
    found = []
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        q, x = (jnp.asarray(rng.normal(size=s)) for s in ((1, 2, 5, 3), (1, 4, 6)))
        memory = long_term.init(cfg, 1, 6, jnp.float64)
        memory = long_term.write(cfg, memory, x)
        for way in ("chunks", "kernel"):
            module = LongTermAttention(dataclasses.replace(cfg, read=way))
            shapes = jax.eval_shape(module.init, jax.random.key(0), q, memory)["params"]
            params = random_like(shapes)

            def objective(params, q, module=module):
                return (module.apply({"params": params}, q, memory)[0] ** 2).sum()

            step = jax.jit(jax.value_and_grad(objective, (0, 1)))
            found.append(step(params, q))
            calls = str(jax.make_jaxpr(objective)(params, q)).count("pallas_call")
            assert (calls > 0) == (way == "kernel")
    check_same(*found, 1e-10)


@pytest.mark.slow
def test_a_model_is_trained_the_same(tiny_model):
    """The gradient of a decoder's loss by all its parameters, in float64."""
    found = []
    with jax.enable_x64(True):
        for way in ("chunks", "kernel"):
            ltm = dataclasses.replace(tiny_model.long_term, read=way)
            cfg = dataclasses.replace(tiny_model, long_term=ltm, num_layers=1)
            model, ops = Decoder(cfg), operators(cfg)
            memory = state.init(cfg, 2, jnp.float64)
            full = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), memory)
            memory = full._replace(seen=jnp.full_like(memory.seen, 3 * cfg.segment_len))
            tokens = np.arange(2 * cfg.segment_len).reshape(2, -1) % cfg.vocab_size
            init = partial(model.init, operators=ops)
            shapes = jax.eval_shape(init, jax.random.key(0), tokens, memory)["params"]
            params = random_like(shapes)

            def objective(params, memory, ops, model=model, tokens=tokens):
                out = model.apply({"params": params}, tokens, memory, operators=ops)
                return (out.logits**2).mean()

            found.append(jax.jit(jax.value_and_grad(objective))(params, memory, ops))
    check_same(*found, 1e-10)


def on_a_gpu():
    """Lower as if for a GPU: newer versions of JAX must be told which."""
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_lowers_for_cuda(dtype):
    """Both passes become Triton's calls, and no expectation is left outside of them."""
    with jax.enable_x64(dtype is np.float64), on_a_gpu():
        shapes = [jax.ShapeDtypeStruct(a.shape, dtype) for a in inputs(2, 3)]
        for function in (OF_KERNEL, jax.jit(jax.vmap(OF_KERNEL))):
            if function is not OF_KERNEL:
                shapes = [jax.ShapeDtypeStruct((2, *s.shape), dtype) for s in shapes]
            text = function.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
            assert text.count("@__gpu$xla.gpu.triton") == 3
            for outside in ("exponential", "dot_general", "while"):
                assert f"stablehlo.{outside}" not in text


def test_no_product_is_rounded_to_tf32():
    """Every product of both passes asks for the highest precision."""
    text = str(jax.make_jaxpr(OF_KERNEL)(*inputs(dtype=np.float32)))
    products = text.count("= dot_general")
    assert products >= 4 and products == text.count("precision=(Precision.HIGHEST")


def test_what_it_refuses():
    cfg = long_term.LongTermConfig()
    object.__setattr__(cfg, "read", "triton")  # the constructor's types are checked in tests
    with pytest.raises(ValueError, match=r"^read: found triton, accepted: chunks or kernel$"):
        cfg.__post_init__()
    mean, var, values, _ = inputs(1, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(read.READERS, "kernel")
        what_to_import = "after `import inf_former_jax.contrib.pallas_read`$"
        with pytest.raises(ValueError, match=f"^read: found kernel, .*{what_to_import}"):
            read.expected_value(BASIS, GaussianDensity(mean, var), values, read="kernel")
    for tile in (8, 24, 0):
        with pytest.raises(ValueError, match=f"^tile: found {tile}, accepted: a power of two ≥ 16"):
            pallas_read.expected_value(BASIS, GaussianDensity(mean, var), values, tile)
