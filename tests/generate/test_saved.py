"""Saved states: every damaged or foreign file is refused, and so is another model."""

import dataclasses
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_former_jax import generate
from inf_former_jax.generate import saved
from inf_former_jax.memory.state import MAX_SEEN
from inf_former_jax.models.decoder import Decoder
from tests import damage
from tests.generate.test_generation import INFINITE, MEMORY, B, T, assert_same
from tests.pairs import PAIRS

DECODER = Decoder(dataclasses.replace(INFINITE, num_layers=1))
PARAMS = {"a": np.arange(3.0), "b": {"c": np.ones((2, 2), np.float32)}}


def a_state(dtype=np.float32):
    """Any numbers that a state can have, in rows that have read 3 segments and a token."""
    rng = np.random.default_rng(0)
    fresh = jax.eval_shape(lambda: generate.start(DECODER, B, dtype))
    state = jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), fresh)
    (layer,) = state.memory.layers
    written = layer.long_term._replace(writes=np.full(B, 2, np.int32))
    layers = (layer._replace(long_term=written),)
    memory = state.memory._replace(seen=np.full(B, 3 * T, np.int32), layers=layers)
    return state._replace(memory=memory, position=np.ones(B, np.int32))


def members(path):
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A saved state, which tests leave alone."""
    path = tmp_path_factory.mktemp("saved") / "book.npz"
    generate.save_state(path, a_state(), decoder=DECODER, params=PARAMS)
    return path


def load(path, decoder=DECODER, batch=B, **options):
    return generate.load_state(path, decoder, batch, **options)


def test_every_bit_comes_back(book, tmp_path):
    """With and without what tells the model, and a file of version 0.2, which told none."""
    assert_same(load(book, params=PARAMS), a_state())
    generate.save_state(tmp_path / "bare.npz", a_state())
    assert_same(load(tmp_path / "bare.npz"), a_state())
    np.savez(tmp_path / "old.npz", **{k: v for k, v in members(book).items() if k != "model"})
    assert_same(load(tmp_path / "old.npz"), a_state())
    for untold in ("bare", "old"):
        path = tmp_path / f"{untold}.npz"
        with pytest.raises(ValueError, match=f"{untold}.npz: weights: found None, accepted: .*"):
            load(path, params=PARAMS)
        assert_same(load(path, params=PARAMS, accept="any"), a_state())


def test_a_state_of_before_other_memories_comes_back(book, tmp_path):
    """Its leaves had other names and its configuration fewer fields, which are the defaults."""
    old = {name.replace(".located.", "."): leaf for name, leaf in members(book).items()}
    told = json.loads(bytes(old["model"]))
    new = ("functions", "fit", "density", "content_heads", "norm_epsilon", "num_kv_heads")
    told = {name: value for name, value in told.items() if not name.endswith(new)}
    old["model"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    assert set(old) != set(members(book)) and ".cache.layers[0].projected.keys" in old
    path = tmp_path / "earlier.npz"
    np.savez(path, **old)
    assert_same(load(path, params=PARAMS), a_state())
    memory = dataclasses.replace(INFINITE.long_term, fit="intervals", num_samples=512)
    other = Decoder(dataclasses.replace(DECODER.cfg, long_term=memory))
    with pytest.raises(ValueError, match=r"earlier\.npz: long_term\.fit: found 'points'"):
        load(path, other)
    other = Decoder(dataclasses.replace(DECODER.cfg, norm_epsilon=1e-3))
    with pytest.raises(ValueError, match=r"earlier\.npz: norm_epsilon: found 1e-05"):
        load(path, other)


def test_a_state_in_float64_comes_back(tmp_path):
    path = tmp_path / "double.npz"
    with jax.enable_x64(True):
        state = a_state(np.float64)
        generate.save_state(path, state)
        loaded = load(path)
    assert loaded.cache.logits.dtype == np.float64
    assert_same(loaded, state)
    with pytest.raises(ValueError, match=r"double\.npz: state.*found float64.*accepted: float32"):
        load(path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"long_term": {"tau": 0.6}}, r"long_term\.tau: found 0\.75, accepted: 0\.6"),
        (
            {"long_term": {"widths": (0.201,)}},
            r"long_term\.widths: found \[0\.2\], accepted: \[0\.201",
        ),
        ({"long_term": {"contraction": "power"}}, "long_term.contraction: found 'fixed'"),
        ({"long_term": {"ridge": 0.5}}, "long_term.ridge: found 1.0, accepted: 0.5"),
        ({"norm": "pre"}, "norm: found 'post', accepted: 'pre'"),
        ({"segment_len": 2, "mem_len": T}, "segment_len: found 4, accepted: 2"),
    ],
)
def test_another_configuration_is_refused(book, change, match):
    """By the first field, unless any is accepted; then by the first leaf of another shape."""
    fields = {name: value for name, value in change.items() if name != "long_term"}
    memory = dataclasses.replace(INFINITE.long_term, **change.get("long_term", {}))
    cfg = dataclasses.replace(DECODER.cfg, long_term=memory, **fields)
    with pytest.raises(ValueError, match=rf"book\.npz: {match}.*, or another's with accept any$"):
        load(book, Decoder(cfg))
    if "segment_len" in change:
        with pytest.raises(ValueError, match=r"book\.npz: state.*: found float32.*, accepted: "):
            load(book, Decoder(cfg), accept="any")
    else:
        assert_same(load(book, Decoder(cfg), accept="any"), a_state())


def test_how_it_is_computed_and_trained_does_not_matter(book):
    memory = dataclasses.replace(INFINITE.long_term, prior_scale=0.1, prior_mean=0.5)
    same = {"dropout": 0.0, "query_chunk": 7, "remat": True, "memory_gradient": 1}
    cfg = dataclasses.replace(DECODER.cfg, long_term=memory, dtype="bfloat16", **same)
    assert_same(load(book, Decoder(cfg), params=PARAMS), a_state())


def test_other_weights_are_refused(book):
    """One number, a name, a shape or a dtype that differs; order and kind of array do not."""
    a, c = PARAMS["a"], PARAMS["b"]["c"]
    same = {"b": {"c": jnp.asarray(c)}, "a": a}
    assert_same(load(book, params=same), a_state())
    for other in (
        PARAMS | {"a": a + 1e-9},
        {"A": a, "b": {"c": c}},
        PARAMS | {"b": {"c": c.reshape(4, 1)}},
        PARAMS | {"a": a.astype(np.float32)},
    ):
        with pytest.raises(
            ValueError, match=r"book\.npz: weights: found '\w+', accepted: '\w+', this"
        ):
            load(book, params=other)
        assert_same(load(book, params=other, accept="any"), a_state())


def test_another_architecture_is_refused(tmp_path):
    """A file that tells no model, by the first leaf that differs."""
    path = tmp_path / "book.npz"
    generate.save_state(path, a_state())
    for change, match in [
        ({"long_term": MEMORY}, r"state\.cache\.layers\[0\]\.mass: found .*, accepted: nothing"),
        ({"num_layers": 2}, r"state\.cache\.layers\[1\].*: found nothing, accepted: float32"),
        ({"vocab_size": 20}, r"state\.cache\.logits: found float32\[3, 19\], accepted: .*20\]"),
    ]:
        with pytest.raises(ValueError, match=rf"book\.npz: {match}"):
            load(path, Decoder(dataclasses.replace(DECODER.cfg, **change)))
    with pytest.raises(ValueError, match=r"found float32\[3, .*accepted: float32\[2, "):
        load(path, batch=2)


WRITES, COEFFS = (f".memory.layers[0].long_term.{name}" for name in ("writes", "coeffs"))


@pytest.mark.parametrize(
    "name, value, accepted",
    [
        (COEFFS, np.nan, "-inf to inf"),
        (COEFFS, -np.inf, "-inf to inf"),
        (".cache.logits", np.inf, "-inf to inf"),
        (".cache.layers[0].keys", np.nan, "-inf to inf"),
        (".cache.layers[0].mass", -0.1, "0 to inf"),
        (".memory.layers[0].long_term.salience", -0.1, "0 to inf"),
        (".position", T, "0 to 3"),
        (".position", 999999, "0 to 3"),
        (".position", -5, "0 to 3"),
        (".memory.seen", -1, f"0 to {MAX_SEEN}"),
        (".memory.seen", MAX_SEEN + 1, f"0 to {MAX_SEEN}"),
        (WRITES, -7, "0 to 3"),
        (WRITES, 4, "0 to 3"),
    ],
)
def test_numbers_that_no_state_has_are_refused(book, tmp_path, name, value, accepted):
    arrays, path = members(book), tmp_path / "wrong.npz"
    arrays[name].reshape(-1)[1] = value
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"wrong\.npz: state\..*: found .*, accepted: ") as refused:
        load(path, accept="any")
    said = str(refused.value)
    assert said.startswith(f"{path}: state{name}: found {np.asarray(value, arrays[name].dtype)}, ")
    assert said.endswith(f"accepted: finite numbers from {accepted}")


@pytest.mark.parametrize("age", [-0.5, 3 * T + 0.5])
def test_ages_that_no_cell_has_are_refused(tmp_path, age):
    """Cells that are kept are not older than their row."""
    decoder = Decoder(dataclasses.replace(INFINITE, num_layers=1, **PAIRS["llama, kept"]))
    state, path = generate.start(decoder, B), tmp_path / "kept.npz"
    seen = np.full(B, 3 * T, np.int32)
    generate.save_state(path, state._replace(memory=state.memory._replace(seen=seen)))
    arrays, name = members(path), ".memory.layers[0].long_term.ages"
    arrays[name][:] = 3 * T
    np.savez(path, **arrays)
    assert (load(path, decoder).memory.layers[0].long_term.ages == 3 * T).all()
    arrays[name][1, 2] = age
    np.savez(path, **arrays)
    with pytest.raises(
        ValueError, match=rf"state.*ages: found {age}, accepted: .* 0 to {3 * T}.0$"
    ):
        load(path, decoder)


def zipped(arrays, compression=zipfile.ZIP_DEFLATED, texts=False):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array)
            archive.writestr(f"{name}.npy", b"text" if texts else part.getvalue())
    return content.getvalue()


def marked(raw, local, central, value):
    """A zip whose headers all have another byte at the given places."""
    raw = bytearray(raw)
    for mark, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + place] = value
            at = raw.find(mark, at + 1)
    return bytes(raw)


def test_zips_of_every_kind(book, tmp_path):
    """Compressed ones are read; broken streams, unknown methods, passwords, texts are refused."""
    arrays, path = members(book), tmp_path / "book.npz"
    for compression in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ):
        whole = zipped(arrays, compression)
        path.write_bytes(whole)
        assert_same(load(path, params=PARAMS), a_state())
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + b"\xff" * 40 + whole[middle + 40 :])
        refused(path)
    pickled = io.BytesIO()
    np.savez(pickled, **arrays | {".position": np.array([None] * B, object)})
    array = io.BytesIO()
    np.save(array, arrays[".position"])
    texts, more = tmp_path / "texts.zip", arrays | {"extra": np.ones(2)}
    with zipfile.ZipFile(texts, "w") as archive:
        archive.writestr("a.txt", "text")
    for wrong, found in (
        (b"some text", "another kind of file, accepted: a file of save_state"),
        (array.getvalue(), "another kind of file, accepted: a file of save_state"),
        (texts.read_bytes(), "another kind of file, accepted: a file of save_state"),
        (whole[:99], r"a damaged one \(.*\), accepted: a file of save_state"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"^{path}: found {found}$"):
            load(path, params=PARAMS)
    path.write_bytes(zipped(more))
    with pytest.raises(ValueError, match=r"book\.npz: member 'extra': found such a member, acc"):
        load(path, params=PARAMS)
    for wrong in (
        marked(whole, 8, 10, 99),  # an unknown method
        marked(whole, 6, 8, 1),  # encrypted
        zipped(arrays, texts=True),
        zipped({}),
        pickled.getvalue(),
        array.getvalue(),
        b"text",
        b"",
    ):
        path.write_bytes(wrong)
        refused(path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: found is a directory, accepted: a file of"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone: found nothing, accepted: a file of save_st"):
        load(tmp_path / "gone")


def refused(path):
    assert damage.answer(lambda: load(path)) is None


DTYPES = st.sampled_from(["float64", "float16", ">f4", "int64", "bool", "U3", "complex64", "V4"])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_refused_or_say_the_same(book, tmp_path_factory, data):
    """Bytes and members; what is accepted all the same is the state that was saved."""
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damage.bytes_of(book.read_bytes())))
        changed = False
    else:
        arrays = members(book)
        name = data.draw(st.sampled_from(sorted(arrays)))
        member, changed = arrays.pop(name), True
        match data.draw(st.sampled_from(["gone", "renamed", "dtype", "shape", "json"])):
            case "renamed":
                arrays[data.draw(st.text(max_size=5))] = member
            case "dtype":
                arrays[name] = np.zeros(member.shape, data.draw(DTYPES))
            case "shape":
                arrays[name] = member[..., None]
            case "json":
                arrays[name] = member
                value = damage.VALUES.map(lambda value: {"weights": value, "norm": value})
                told = json.dumps(data.draw(damage.VALUES | value)).encode()
                arrays["model"] = np.frombuffer(told, np.uint8)
        np.savez(path, **arrays)
    answer = damage.answer(lambda: load(path, params=PARAMS))
    assert answer is None or not changed
    if answer is not None:
        assert_same(answer, a_state())


@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(book, tmp_path, number):
    path, state = tmp_path / "book.npz", a_state()
    path.write_bytes(book.read_bytes())
    state.cache.logits[1, 2] = number
    with pytest.raises(generate.NonFiniteState, match=rf"state\.cache\.logits: found {number}, "):
        generate.save_state(path, state)
    assert path.read_bytes() == book.read_bytes()


def test_an_error_while_it_is_written_leaves_the_old_file(book, tmp_path, monkeypatch):
    path = tmp_path / "book.npz"
    path.write_bytes(book.read_bytes())

    def full(file, **leaves):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved.np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        generate.save_state(path, a_state())
    assert path.read_bytes() == book.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["book.npz"]
