"""What the pages say exists: links, names, files, targets; and their code runs."""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import BASH, FENCE, PAGES, PYTHON, ROOT, inline_code, name_of, text_of

#: What a dotted name may begin with: a floor of the library, which stands without its package.
FLOORS = ("contrib", "data", "generate", "memory", "models", "training")

DOTTED = re.compile(r"^[a-z_]+(\.[A-Za-z_]\w*)+$")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = ("docs", "experiments", "inf_former_jax", "notebooks", "results", "tests")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """Sphinx checks those of docs/; readers of the checkout follow all of them."""
    targets = [target.partition("#")[0] for target in LINK.findall(FENCE.sub("", text_of(page)))]
    local = [target for target in targets if target and not target.startswith(("http", "mailto"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def resolve(name: str) -> object:
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    if parts[0] in FLOORS or parts[0] == "presets":
        parts = ["inf_former_jax", *parts]
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part)
            return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_exist(page):
    known = (*FLOORS, "experiments", "inf_former_jax", "presets")
    names = (re.sub(r"\(.*\)$", "", code) for code in inline_code(page))
    names = [name for name in names if DOTTED.match(name) and not name.endswith(".py")]
    names = [name for name in names if name.split(".")[0] in known]
    missing = []
    for name in names:
        try:
            resolve(name)
        except (AttributeError, ModuleNotFoundError):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_exist(page):
    paths = [code for code in inline_code(page) if code.split("/")[0] in FOLDERS and "/" in code]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*BASH.findall(text_of(page)), *inline_code(page)])
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets


def test_the_readme_is_one_page():
    assert (ROOT / "README.md").stat().st_size <= 9_000


def test_the_version_is_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_code_of_the_readme_runs():
    """The quick start and the layer to plug in, each pasted alone; shapes as comments say."""
    first, second = PYTHON.findall(text_of(ROOT / "README.md"))
    names: dict = {}
    exec(compile(first, "README quick start", "exec"), names)
    assert names["out"].logits.shape == (2, 128, 22)
    layer = names["out"].memory.layers[0].long_term
    assert layer.coeffs.shape == (2, 512, 300) and layer.writes.tolist() == [2, 2]
    assert names["out"].info[0]["density"].mean.shape == (2, 6, 128)
    assert names["memory"].seen.tolist() == [0, 512]
    names = {}
    exec(compile(second, "README plug-in layer", "exec"), names)
    assert names["context"].shape == (2, 32, 96)


WITH_CODE = [page for page in PAGES[1:] if PYTHON.search(text_of(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, one after the other, beside models' files; their assertions hold."""
    blocks = PYTHON.findall(text_of(page))
    if "jax_num_cpu_devices" in "".join(blocks):  # which JAX accepts before it begins
        program = "\n".join([*blocks, "assert jax.device_count() == 2"])
        environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
        return
    for model in ("gpt2", "llama"):
        shutil.copytree(ROOT / "tests" / "golden" / model, tmp_path / model)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), names)
