"""The dialogue page: what a parser finds in it, hand-written shades, contrast, size, refusals."""

import re

import jax
import numpy as np
import pytest

from experiments.dialogue.coverage import Covered, on_document
from experiments.dialogue.page import DARK, LIGHT, levels, top_words, write_page
from inf_former_jax.memory import state
from inf_former_jax.memory.coverage import coverage
from inf_former_jax.models.decoder import Decoder, operators
from tests.experiments.parsed import Page

EVIL = "<script>alert('1')</script> & \"quoted\" &amp; </article>"


def shown(
    pieces=("a", " b", " c", " d"), mass=((0.5, 0.25, 0.125, 0.125), (0, 0, 0, 0)), **changed
):
    mass = np.array(mass, float)
    given = Covered("n", [("user1", "hi")], "yes", "no", list(pieces), mass, 1 - mass.sum(1))
    return given._replace(**changed)


def page_of(folder, *replies, title="t"):
    write_page(folder / "page.html", title, replies)
    return Page(folder / "page.html")


def test_all_text_is_text(tmp_path):
    """Tags in any field stay text, to the character; nothing runs and nothing is fetched."""
    document = f"\n {EVIL}\n\n  two  spaces “ü” "
    pieces = [document[i : i + 3] for i in range(0, len(document), 3)]
    mass = np.full((2, len(pieces)), 1 / len(pieces))
    mass[0, : len(pieces) // 2] = 0
    given = shown(pieces, mass, name=EVIL, history=[(EVIL, EVIL)], true_reply=EVIL, reply=EVIL)
    page = page_of(tmp_path, given, given, title=EVIL)
    assert page.texts("div", "doc") == [document] * 2
    assert page.texts("h1") == page.texts("title") == [EVIL]
    assert page.texts("h2") == [EVIL] * 2
    turns = [EVIL + EVIL + "\n", f"true reply{EVIL}\n", f"generated reply{EVIL}\n"]
    assert [turn + "\n" for turn in page.texts("p", "turn")] == turns * 2
    assert page.texts("script") == []
    named = {name for _, attributes, _ in page.found for name in attributes}
    assert not named & {"src", "href"} and not re.search(r"url\(|@import|http:|https:", page.source)
    assert "default-src 'none'" in page.source


def test_shades_by_hand(tmp_path):
    """Of four pieces 2, 1, ½ and ½ times uniform; equal neighbours are one span, bare ones none."""
    assert list(levels(np.array([0, 0.24, 0.25, 0.5, 1, 63, 64, 1e3]))) == [0, 0, 1, 2, 3, 8, 9, 9]
    source = page_of(tmp_path, shown()).source
    spans = '<span class="m0-4">a</span><span class="m0-3"> b</span><span class="m0-2"> c d</span>'
    assert f'<div class="doc">{spans}</div>' in source
    half = shown(mass=((0.25, 0.125, 0.0625, 0.0625),))  # the other half is elsewhere
    spans = '<span class="m0-3">a</span><span class="m0-2"> b</span><span class="m0-1"> c d</span>'
    assert f'<div class="doc">{spans}</div>' in page_of(tmp_path, half).source
    bare = shown(mass=((0.5, 0.5, 0, 0), (0, 1, 0, 0)))
    spans = '<span class="m0-4">a</span><span class="m0-4 m1-5"> b</span> c d'
    assert f'<div class="doc">{spans}</div>' in page_of(tmp_path, bare).source


def test_numbers_of_a_layer(tmp_path):
    """Its share on the document, its share elsewhere, its five largest words."""
    given = shown(
        [" w0", " w", "1", " w2", " w3", " w4", " w5"], [[0.01, 0.1, 0.12, 0.05, 0.07, 0.08, 0.06]]
    )
    [row] = page_of(tmp_path, given).texts("label", "R0")
    assert row == "049.0%51.0%w1 22.0% · w4 8.0% · w3 7.0% · w5 6.0% · w2 5.0%"


def test_top_words_by_hand():
    """White space takes nothing of a piece; a piece over two words is shared by characters."""
    words = top_words(["The", " ca", "t\n", "sat", " ", "one it"], [0.1, 0.2, 0.1, 0.05, 0.3, 0.15])
    assert [word for word, _ in words] == ["cat", "The", "one", "it", "sat"]
    np.testing.assert_allclose([share for _, share in words], [0.3, 0.1, 0.09, 0.06, 0.05])
    assert top_words(["a", " b"], [0, 0]) == []


def strip_of(page):
    """(shade, width) of the boxes of the first strip."""
    [strip] = re.findall(r'<span class="strip">(.*?)</span>', page.source)[:1]
    return [(int(k), int(n)) for k, n in re.findall(r'class="k(\d)" style="flex:(\d+)"', strip)]


def test_strips_by_hand(tmp_path):
    """A box a piece up to 200; of 500 pieces two and a half are in each."""
    assert strip_of(page_of(tmp_path, shown())) == [(4, 1), (3, 1), (2, 2)]
    many = ["x "] * 500
    uniform = shown(many, np.full((1, 500), 1 / 500))
    assert strip_of(page_of(tmp_path, uniform)) == [(3, 200)]
    last = shown(many, [[0] * 499 + [1]])
    assert strip_of(page_of(tmp_path, last)) == [(0, 199), (9, 1)]


def test_every_layer_can_be_chosen(tmp_path):
    """A button and a row for each layer of each card, and a rule for every shade in the text."""
    page = page_of(tmp_path, shown(), shown("a" * 99, np.eye(99)[:3]))
    inputs = [attributes for tag, attributes, _ in page.found if tag == "input"]
    labels = [attributes for tag, attributes, _ in page.found if tag == "label"]
    assert len({button["id"] for button in inputs}) == len(inputs) == 5
    assert [label["for"] for label in labels] == [button["id"] for button in inputs]
    assert [button["name"] for button in inputs if "checked" in button] == ["r0", "r1"]
    for button, label in zip(inputs, labels, strict=True):
        assert f".{button['class']}:checked~.rows .{label['class'].split()[1]}{{" in page.source
    for layer, shade in set(
        re.findall(r"\bm(\d)-(\d)", "".join(re.findall(r'"m.*?"', page.source)))
    ):
        rule = f".L{layer}:checked~.doc .m{layer}-{shade}{{background:var(--b{shade});"
        assert rule in page.source


def luminance(colour):
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


@pytest.mark.parametrize("shades", [LIGHT, DARK], ids=["light", "dark"])
def test_shades_can_be_told_apart_and_read(shades):
    """Lightness is monotone in the mass, neighbours differ; text has a contrast of 4.5 or more."""
    grounds = np.array([luminance(ground) for ground, _ in shades])
    texts = np.array([luminance(text) for _, text in shades])
    high, low = np.maximum(grounds, texts), np.minimum(grounds, texts)
    assert ((high + 0.05) / (low + 0.05) >= 4.5).all()
    steps = np.diff(np.log(grounds + 0.05)) * (1 if shades is DARK else -1)
    assert (steps > 0.07).all()


def test_the_size_of_a_large_page(tmp_path):
    """12 layers of smooth densities over 3000 pieces: the text is there once, in few spans."""
    rng, places = np.random.default_rng(0), np.arange(3000) / 3000
    mean, scale = rng.uniform(size=(12, 12, 1)), np.exp(rng.uniform(-4, -1, size=(12, 12, 1)))
    mass = np.exp(-0.5 * ((places - mean) / scale) ** 2).sum(1)
    mass /= mass.sum(1, keepdims=True)
    page = page_of(tmp_path, shown([" word"] * 3000, mass))
    [text] = page.texts("div", "doc")
    assert text == " word" * 3000
    assert page.source.count('<span class="m') < 400
    assert len(page.source.encode()) < 100_000


def test_a_reply_over_two_segments_by_hand():
    """The second segment reads what the first did and two tokens more; means by tokens read."""
    first, second = np.array([[0.2, 0.4]]), np.array([[0.1, 0.1, 0.2, 0.3]])
    mass, elsewhere = on_document([(first, 1), (second, 3)], 1, 3)
    np.testing.assert_allclose(mass, [[0.25 * 0.4 + 0.75 * 0.1, 0.75 * 0.2]])
    np.testing.assert_allclose(elsewhere, [1 - 0.175 - 0.15])
    mass, elsewhere = on_document([(first, 2)], 2, 5)
    assert mass.tolist() == [[0, 0, 0]] and elsewhere.tolist() == [1]


@pytest.mark.slow
def test_from_the_decoder_to_the_page(tmp_path, tiny_model):
    """The densities of two segments after 2 and 3 writes; the shares of all layers sum to 1."""
    cfg, decoder = tiny_model, Decoder(tiny_model)
    tokens = jax.random.randint(jax.random.key(0), (5, 1, cfg.segment_len), 0, cfg.vocab_size)
    memory, ops = state.init(cfg, 1), jax.device_put(operators(cfg))
    params = jax.jit(decoder.init)(jax.random.key(1), tokens[0], memory, operators=ops)
    read = jax.jit(decoder.apply)
    parts = []
    for segment in tokens:
        out = read(params, segment, memory, operators=ops)
        memory = out.memory
        writes = int(memory.layers[0].long_term.writes[0])
        covered = [
            coverage(cfg.long_term, of_layer["density"], [8] * writes, segment_len=8)
            for of_layer in out.info
        ]
        parts.append((np.stack([layer.tokens[0] for layer in covered]), 8))
    assert [part.shape for part, _ in parts] == [(2, 0), (2, 0), (2, 8), (2, 16), (2, 24)]
    mass, elsewhere = on_document(parts[-2:], 1, 20)
    expected = (parts[-2][0][:, 1:].sum(1) + parts[-1][0][:, 1:20].sum(1)) / 2
    np.testing.assert_allclose(mass.sum(1), expected, rtol=1e-6)
    page = page_of(tmp_path, shown([f" {i}" for i in range(19)], mass, elsewhere=elsewhere))
    assert len(page.texts("label")) == cfg.num_layers


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([], "replies: found none, accepted: one or more"),
        ([shown(), shown(pieces=[])], "replies[1].pieces: found none"),
        ([shown(pieces="abc")], "replies[0].mass: found shape (2, 4), accepted: [layers, 3]"),
        ([shown(mass=np.zeros((0, 4)))], "replies[0].mass: found shape (0, 4)"),
        ([shown()._replace(mass=np.full(4, 0.2))], "replies[0].mass: found shape (4,)"),
        ([shown(elsewhere=np.zeros(3))], "replies[0].elsewhere: found shape (3,), accepted: [2]"),
        ([shown(mass=[[-0.1, 0, 0, 1]])], "replies[0].mass: found -0.1, accepted: shares of 1"),
        ([shown(mass=[[1.1, 0, 0, 0]])], "replies[0].mass: found 1.1, accepted: shares of 1"),
        ([shown(mass=[[np.nan, 0, 0, 0]])], "replies[0].mass: found nan, accepted: shares of 1"),
        ([shown(elsewhere=np.array([0, -1]))], "replies[0].elsewhere: found -1, accepted:"),
        ([shown(elsewhere=np.zeros(2))], "replies[0].mass: found 0 with elsewhere in layer 1"),
    ],
)
def test_what_no_page_can_show_is_refused(tmp_path, replies, message):
    """One line that says what was found and what is accepted, and no file."""
    with pytest.raises(ValueError, match=re.escape(message)):
        write_page(tmp_path / "page.html", "t", replies)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "start", "stop", "message"),
    [
        ([], 0, 1, "parts: found"),
        ([(np.zeros((1, 2)), 0)], 0, 1, "parts: found"),
        ([(np.zeros((1, 2)), 1)], 1, 1, "stop: found 1, accepted: more than start = 1"),
    ],
)
def test_no_reply_or_no_document_is_refused(parts, start, stop, message):
    """One line that says what was found and what is accepted."""
    with pytest.raises(ValueError, match=re.escape(message)):
        on_document(parts, start, stop)
