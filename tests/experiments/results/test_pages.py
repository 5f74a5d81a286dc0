"""Where the tables stand, and the command that writes them."""

import json
import re

import pytest

from experiments.results import __main__ as results
from experiments.results import pages


@pytest.fixture
def root(tmp_path):
    """A project of one page, with two results of sorting."""
    folder = tmp_path / "results" / "sorting"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        run = {
            "preset": "a",
            "device": "d",
            "commit": "c",
            "date": "2026-01-01",
            "parameters": 1000,
            "steps": 10,
            "tokens_per_second": 5000,
            "seconds": 120,
            "settings": {"length": 100, "seed": seed},
            "test": {"as trained": {"accuracy": 0.5 + 0.2 * seed}},
            "baselines": {"exact counts, 2 layers × window": 0.25},
        }
        (folder / f"{seed}.json").write_text(json.dumps(run))
    (tmp_path / "README.md").write_text(
        "before\n<!-- results: sorting -->\nold\n<!-- end -->\nafter\n"
    )
    return tmp_path


def test_tables_are_made_from_results_and_the_text_around_them_stays(root):
    text = pages.render((root / "README.md").read_text(), root)
    lines = text.splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in text
    assert "| `a` | 100 | 2 | 0.600 ± 0.141 |" in lines[4]
    assert pages.render(text, root) == text


def test_a_marker_without_a_table_is_refused(root):
    with pytest.raises(ValueError, match=r"table: found nothing, accepted: summary, sorting"):
        pages.render("<!-- results: nothing -->\n<!-- end -->", root)


def test_a_table_without_a_place_is_refused(root):
    texts = {page: page.read_text() for page in pages.pages(root)}
    with pytest.raises(ValueError, match="found no place for agree, benchmark, "):
        pages.render_all(texts, root)


def test_check_names_the_page_that_differs_and_writes_nothing(root, monkeypatch, capsys):
    monkeypatch.setattr(results, "ROOT", root)
    monkeypatch.setattr(results, "pages", lambda: pages.pages(root))
    monkeypatch.setattr(
        results,
        "render_all",
        lambda texts: {page: pages.render(text, root) for page, text in texts.items()},
    )
    before = (root / "README.md").read_text()
    with pytest.raises(SystemExit) as stopped:
        results.main(["--check"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.startswith("README.md: its tables differ from results/")
    assert (root / "README.md").read_text() == before
    results.main([])
    assert capsys.readouterr().out == "README.md: written anew\n"
    results.main(["--check"])


def test_the_pages_say_what_the_results_say():
    """What `make check` asks."""
    results.main(["--check"])


def test_a_damaged_result_is_named(root):
    (root / "results" / "sorting" / "a.json").write_text('{"steps": ')
    with pytest.raises(ValueError, match=r"sorting/a\.json: found damaged JSON .*, accepted"):
        pages.load("sorting", root)


def test_help_and_unknown_options(capsys):
    results.main(["--help"])
    assert "python -m experiments.results --check" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        results.main(["--unknown"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == "error: options: found --unknown, accepted: --check\n"


def test_every_folder_of_results_is_on_a_page():
    """But for the figures that a page states in words, which say where they are from."""
    shown = {name.split()[0] for name in pages.TABLES}
    folders = {folder.name for folder in (pages.ROOT / "results").iterdir()}
    text = "".join(page.read_text(encoding="utf-8") for page in pages.pages())
    stated = {name for name in folders - shown if re.search(rf"results/{name}\b", text)}
    assert folders - shown == stated == {"memory"}
