"""The page of a run: what a parser and a browser find in it, and how a wrong folder is refused."""

import base64
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.report import contents
from experiments.report.__main__ import main
from experiments.run import folders
from experiments.sorting import __main__ as sorting
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.retained import retention
from tests.experiments.parsed import Page
from tests.experiments.sorting.test_sorting import TINY

EVIL = "<script>alert('1')</script><img src=http://a.b/c> & \"quoted\" &amp; $x$ \x1b[31m"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny run of sorting, with its page."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    sorting.main([*TINY, "--out", str(folder)])
    main([str(folder)])
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """Makes a folder of some files of the run, without a report."""

    def copied(*names: str) -> Path:
        folder = tmp_path / "copied"
        folder.mkdir()
        for name in names:
            shutil.copy(finished / name, folder / name)
        return folder

    return copied


def page_of(folder: Path) -> Page:
    main([str(folder)])
    return Page(folder / "report.html")


def rows_of(page: Page) -> dict[str, list[str]]:
    """Name of a row → its cells, of all tables; a name that is there twice has its last row."""
    source = re.sub(r"<(?!/?(tr|th|td)\b)[^>]*>", "", page.source)
    lines = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in source.split("<tr>")[1:])
    return {first: cells for first, *cells in lines}


def test_the_page_has_the_figures_of_the_result(finished):
    page, result = Page(finished / "report.html"), folders.read_result(finished)
    rows = rows_of(page)
    for label, figures in result["test"].items():
        assert rows[label] == [f"{figures['accuracy']:.3f}", f"{figures['loss']:.3f}",
                               f"{figures['kl']:,.1f}"]  # fmt: skip
    for label, value in result["baselines"].items():
        assert rows[label] == [f"{value:.3f}", "", ""]
    accuracies = [f"{figures['accuracy']:.3f}" for figures in result["test"].values()]
    best = sorted(result["baselines"].values())[-2]  # without the full counts, which see all
    assert page.texts("strong") == [*accuracies, f"{best:.3f}"]
    trained, emptied = accuracies
    title = f"sorting, infinity-former: accuracy {trained}, with the memory emptied {emptied}"
    assert page.texts("h1") == page.texts("title") == [title]
    first, second = (figures["accuracy"] for figures in result["test"].values())
    assert f"worth {first - second:+.3f}." in page.texts("p", "lead")[0]


def test_the_page_says_how_the_run_was_made(finished):
    page, result = Page(finished / "report.html"), folders.read_result(finished)
    rows = rows_of(page)
    assert page.texts("pre", "command") == [result["command"]]
    assert rows["commit"] == [result["commit"]] and rows["date"] == [result["date"]]
    assert rows["updates"] == ["4"] and rows["parameters"] == [f"{result['parameters']:,}"]
    assert {"python", "jax", "jaxlib", "flax", "numpy"} <= result["versions"].keys()
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    assert rows["versions"] == [versions]


def test_settings_that_differ_from_the_preset_are_marked(finished):
    page = Page(finished / "report.html")
    own, rows = contents.flat(folders.read_config(finished)), rows_of(page)
    assert all(rows[field.split(".")[-1]] for field in own)
    assert rows["num_basis"] == ["8 preset: 64"] and rows["warmup_steps"] == ["1 preset: 100"]
    given = [word for word in TINY if word.startswith("--")]
    marks = page.texts("mark")
    differing = len(given) + ("devices" in own and rows["devices"] != ["0"])
    assert len(marks) == differing and marks.count("8") == rows_text(rows).count("8 preset")


def rows_text(rows: dict[str, list[str]]) -> str:
    return "\n".join(cell for cells in rows.values() for cell in cells)


def test_retention_is_that_of_the_settings(finished):
    rows = rows_of(Page(finished / "report.html"))
    fields = folders.read_config(finished)["model"]["long_term"]
    kept = retention(folders.from_json(LongTermConfig, fields), 64, length=24)
    ages = [int(age) for age in rows["further writes"]]
    assert ages[0] == 0 and ages[-1] == 63
    expected = [f"{value:.2f}" for value in kept.density.mean(1)[ages]]
    assert rows["R², one density"] == expected and float(expected[0]) > 0.3
    # τ = ¾: the newest write has a quarter, the one before it three quarters of that.
    assert rows["part of the memory’s time"][:2] == ["0.2500", "0.1875"]


def pictures(page: Page) -> list[str]:
    """The SVGs that are in a page."""
    sources = [found["src"] for name, found, _ in page.found if name == "img"]
    kinds, data = zip(*(source.split(",") for source in sources), strict=True)
    assert {*kinds} == {"data:image/svg+xml;base64"}
    return [base64.b64decode(one).decode() for one in data]


def test_nothing_is_fetched_and_nothing_runs(finished):
    page = Page(finished / "report.html")
    assert page.source.startswith("<!DOCTYPE html>") and page.texts("script") == []
    named = [pair for _, attributes, _ in page.found for pair in attributes.items()]
    assert not [name for name, _ in named if name == "href" or name.startswith("on")]
    assert not re.search(r"url\(|@import|http:|https:", page.source)
    assert len(pictures(page)) == [name for name, _ in named].count("src") == 2
    for picture in pictures(page):
        links = re.findall(r'(?:href|src)="([^"]*)"', picture)
        assert links and all(link.startswith("#") for link in links) and "<script" not in picture
        assert "url(http" not in picture and len(picture) < 200_000
    policies = [found["content"] for _, found, _ in page.found if "http-equiv" in found]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_pictures_say_what_they_show(finished):
    page = Page(finished / "report.html")
    course, kept = pictures(page)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    lowest = min(row["loss"] for row in rows if row["split"] == "valid")
    assert f"Validation loss falls to {lowest:.3f}" in course and ">update<" in course
    assert ">training<" in course and ">validation<" in course
    assert "age of the segment in writes" in kept and "Of the oldest of 64 writes" in kept
    alts = [found["alt"] for name, found, _ in page.found if name == "img"]
    assert alts == page.texts("figcaption") and all(alts)


def test_all_text_is_text(copy):
    """Markup in any text of a run is shown as it is; the page has the same elements."""
    folder = copy("config.json", "metrics.jsonl", "result.json")
    before = Counter(name for name, _, _ in page_of(folder).found)
    result = {k: v for k, v in folders.read_result(folder).items() if k != "digest"}
    result |= dict.fromkeys(("command", "commit", "device", "date", "preset"), EVIL)
    result["test"] = {**result["test"], EVIL: result["test"]["as trained"]}
    result["versions"] = {EVIL: EVIL}
    config = json.loads((folder / "config.json").read_text())
    config["data"], config["changes"] = EVIL, [EVIL]
    folders.write_json(folder / "config.json", config)
    folders.write_result(folder, result)
    page = page_of(folder)
    after = Counter(name for name, _, _ in page.found)
    # A card and a row more for the label, a list of changes, a mark for `data`.
    more = after - before
    assert not before - after
    assert more == Counter(
        {"div": 1, "strong": 1, "span": 2, "tr": 1, "th": 1, "td": 3, "mark": 1, "p": 1, "ul": 1,
         "li": 1}
    )  # fmt: skip
    shown = EVIL.replace("\x1b", "␛")
    assert page.texts("pre", "command") == page.texts("li") == [shown]
    assert page.texts("h1")[0].startswith(f"sorting, {shown}: accuracy ")
    assert "\x1b" not in page.source and "<script" not in page.source


def test_a_run_that_is_not_finished_says_what_is_missing(copy):
    folder = copy("config.json", "metrics.jsonl")
    page = page_of(folder)
    assert page.texts("h1") == ["sorting, infinity-former: not finished"]
    assert "The last update that is recorded is 4 of 4." in page.texts("p", "note")[0]
    headings = ["Training", "What the memory keeps", "Where the heads look", "Settings"]
    assert page.texts("h2") == headings
    (folder / "metrics.jsonl").unlink()
    page = page_of(folder)
    assert "The last update that is recorded is 0 of 4." in page.texts("p", "note")[0]
    assert any("there are no curves" in text for text in page.texts("p", "note"))


def test_a_model_without_a_memory_says_so(copy):
    folder = copy("config.json")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["long_term"] = None
    folders.write_json(folder / "config.json", config)
    page = page_of(folder)
    assert "The trained model has no long-term memory." in page.texts("p", "note")
    assert not page.texts("figcaption")


def evaluation(**changes) -> dict:
    """An evaluation of passkey: at 1 and 4 segments, as given and emptied."""

    def row(*values: float) -> dict:
        mean = sum(values) / len(values)
        return {
            "loss": 1.0, "accuracy": mean, "keys": mean / 2, "distances": [1, 4],
            "accuracy_by_distance": [*values], "keys_by_distance": [value / 2 for value in values],
        }  # fmt: skip

    return {
        "experiment": "passkey",
        "preset": "smollm2",
        "command": "python -m experiments.passkey evaluate",
        "commit": "c0ffee",
        "device": "1 × cpu",
        "versions": {"python": "3"},
        "date": "2026-11-30",
        "settings": {"window": 64, "task": {"distances": [1, 4]}, "seed": 3},
        "trained": {"model_type": "llama"},
        "test": {"as trained": row(0.75, 0.5), "memory emptied before every segment": row(0.5, 0)},
        "baselines_by_distance": {"chance": [0.125, 0.125]},
    } | changes


def test_an_evaluation_alone_has_a_page(tmp_path):
    folders.write_json(tmp_path / "evaluation.json", evaluation())
    page = page_of(tmp_path)
    rows = rows_of(page)
    words = "accuracy 0.625, with the memory emptied 0.250"
    assert page.texts("h1") == [f"passkey, smollm2: {words}"]
    captions = page.texts("caption")
    assert "Accuracy by distance in segments" in captions
    assert "Whole answers right by distance in segments" in captions
    assert rows["as trained"] == ["0.312", "0.375", "0.250"]  # whole answers, the last table
    assert rows["chance"] == ["0.125", "0.125", "0.125"]
    assert rows["window"] == ["64"] and rows["model_type"] == ['"llama"'] and rows["seed"] == ["3"]
    assert "Training" not in page.texts("h2")


def test_a_run_and_its_evaluation_share_a_page(copy):
    folder = copy("config.json", "metrics.jsonl", "result.json")
    other = folders.read_result(folder) | {"preset": "other"}
    del other["steps"]
    folders.write_json(folder / "evaluation-plays.json", other)
    headings = page_of(folder).texts("h2")
    assert headings[:2] == ["What was found", "What was found: evaluation-plays.json"]
    assert headings[-1] == "How it was made: evaluation-plays.json"


def text_model(**changes) -> dict:
    """What an evaluation of a language model found, with a sample of its text."""
    row = {
        "loss": 2.0, "accuracy": 0.25, "perplexity": 7.389, "word_perplexity": 1234.5,
        "bits_per_byte": 1.5,
        "by_segment": {"first": [0, 1, 2, 4], "loss": [0.0, 0.6931472, 1.0986123, 1.3862944],
                       "tokens": [1, 1, 2, 1]},
    }  # fmt: skip
    sample = {"document": "a", "after": "It was", "written": EVIL}
    changes = {"valid": {"as trained": row}} | changes
    found = evaluation(experiment="language_modeling", sample=sample, **changes)
    return {name: found[name] for name in found if name not in ("test", "baselines_by_distance")}


def test_a_text_model_has_perplexities_by_segment_and_its_text(tmp_path):
    folders.write_json(tmp_path / "evaluation-plays.json", text_model())
    page = page_of(tmp_path)
    rows = rows_of(page)
    assert page.texts("p", "lead") == [
        "Perplexity on the validation data is 7.39. Lower is better."
    ]
    assert rows["segment"] == ["0", "1", "2–3", "4+"]
    assert rows["as trained"] == ["1.00", "2.00", "3.00", "4.00"]
    assert page.texts("blockquote") == ["…It was" + EVIL.replace("\x1b", "␛")]


def test_labels_of_pictures_are_text(tmp_path):
    """Each picture is well-formed, and a label in it is neither an element nor a formula."""
    rows = evaluation()["test"]
    found = evaluation(test=rows | {EVIL: rows["as trained"]}, preset=EVIL)
    folders.write_json(tmp_path / "evaluation-1.json", found)
    row = text_model()["valid"]["as trained"]
    found = text_model(valid={"as trained": row, EVIL: row})
    folders.write_json(tmp_path / "evaluation-2.json", found)
    trees = [ElementTree.fromstring(picture) for picture in pictures(page_of(tmp_path))]
    assert len(trees) == 3
    for tree in trees:
        texts = [element.text or "" for element in tree.iter() if element.tag.endswith("text")]
        shown = EVIL.replace("\x1b", "␛")
        assert any(text.startswith(shown) for text in texts), "a label"
        assert not [element for element in tree.iter() if element.tag.endswith(("script", "img"))]


@pytest.mark.slow
def test_densities_are_looked_at_if_it_is_asked_for(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    note = page_of(folder).texts("p", "note")
    assert any(f"experiments.analysis memory --run {folder}" in text for text in note)
    main([str(folder), "--densities", "--out", str(tmp_path / "other" / "page.html")])
    page = Page(tmp_path / "other" / "page.html")
    head = json.loads((folder / "memory.json").read_text())["layers"][0]["heads"][0]
    assert rows_of(page)["0"][2] == f"{head['scale']:.3f}"
    assert len(page.texts("figcaption")) == 3 and "After 1 writes" in page.texts("caption")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "other" / "page.html")


def write(name: str, text: str):
    """What a folder needs to be wrong: one file with this text."""

    def wrong(folder: Path):
        (folder / name).write_text(text, encoding="utf-8")

    return wrong


OTHER = json.dumps(evaluation(experiment="chess"))
BARE = json.dumps(evaluation(test={"as trained": {}}))
BARREN = json.dumps(evaluation(versions=[]))
CHANGED = {"as trained": evaluation()["test"]["as trained"] | {"accuracy": "high"}}
WORDS = json.dumps(evaluation(test=CHANGED))
UNEVEN = {"as trained": evaluation()["test"]["as trained"] | {"distances": [1, 2, 4]}}
SHORT = json.dumps(evaluation(test=UNEVEN))

# What is done to the folder of a finished run → all that the line has to say.
BAD = {
    "damaged config": (write("config.json", "{"), ["config.json", "damaged JSON", "line 1"]),
    "a list": (write("config.json", "[]"), ["config.json", "[]", "a config"]),
    "another's config": (write("config.json", '{"a": 1}'), ["config.json", "loop"]),
    "damaged result": (write("result.json", '{"test": {}}'), ["result.json", "other figures"]),
    "damaged metrics": (write("metrics.jsonl", "{}\n"), ["metrics.jsonl: line 1", "step None"]),
    "another's evaluation": (write("evaluation.json", OTHER), ["evaluation.json", "'chess'"]),
    "without figures": (write("evaluation.json", BARE), ["evaluation.json", "KeyError"]),
    "no versions": (write("evaluation.json", BARREN), ["evaluation.json", "AttributeError"]),
    "a word for a figure": (write("evaluation.json", WORDS), ["evaluation.json", "ValueError"]),
    "one place too many": (write("evaluation.json", SHORT), ["evaluation.json", "ValueError"]),
    "other densities": (write("memory.json", "{}"), ["memory.json", "as its command wrote it"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_folder_is_refused_in_one_line(name, copy, capsys):
    folder = copy("config.json", "metrics.jsonl", "result.json")
    spoil, words = BAD[name]
    spoil(folder)
    if name == "another's config":
        (folder / "result.json").unlink()
        words = ["config.json", "a config of no experiment", "a run or an evaluation of sorting"]
    line = refused(capsys, str(folder))
    assert "accepted" in line and [word for word in words if word not in line] == []
    assert not (folder / "report.html").exists()


def refused(capsys, *argv: str) -> str:
    """The one line of standard error with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line


def test_other_places_are_refused_in_one_line(finished, tmp_path, capsys):
    assert "found nothing, accepted: a run" in refused(capsys, str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    assert "found no config.json" in refused(capsys, str(tmp_path))
    assert "found a file" in refused(capsys, str(finished / "result.json"))
    assert "run: found none" in refused(capsys)
    below = finished / "result.json" / "page.html"
    assert "out: found" in refused(capsys, str(finished), "--out", str(below))
    (tmp_path / "folder").mkdir()
    assert "directory" in refused(capsys, str(finished), "--out", str(tmp_path / "folder"))
    assert "--pictures" in refused(capsys, str(finished), "--pictures")


def browsed(file: Path) -> tuple[str, str]:
    """(the document after it was loaded, what the console says) of a page in Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("chromium: found none on PATH")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    profile = f"--user-data-dir={file.parent / 'profile'}"
    command = [browser, *options, profile, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(said)


def test_a_browser_opens_it_without_a_complaint(finished, tmp_path):
    """And complains of a page that loads something, so that its silence says something."""
    file = tmp_path / "report.html"
    shutil.copy(finished / "report.html", file)
    document, said = browsed(file)
    assert Page(finished / "report.html").texts("h1")[0] in document and said == ""
    spoilt = tmp_path / "spoilt.html"
    text = file.read_text(encoding="utf-8")
    spoilt.write_text(text.replace("<h1>", '<img src="http://127.0.0.1:9/a.png"><h1>'))
    _, said = browsed(spoilt)
    assert "Content Security Policy" in said
