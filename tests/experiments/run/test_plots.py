"""The titles of pictures say what was found."""

import contextlib

import pytest

from experiments.analysis import plots as analysis_plots
from experiments.language_modeling import plots as language_plots
from experiments.run import plots
from experiments.sorting import plots as sorting_plots


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn, saved or not."""
    figures = []

    @contextlib.contextmanager
    def picture(path, *shape, **sizes):
        with plots.picture(path, *shape, **sizes) as axes:
            yield axes
            figures.append(axes.flat[0].figure if hasattr(axes, "flat") else axes.figure)

    for module in (analysis_plots, language_plots, sorting_plots):
        monkeypatch.setattr(module, "picture", picture)
    return figures


def sorted_by(preset, length, accuracy, seed=0):
    return {
        "preset": preset,
        "settings": {"length": length, "seed": seed},
        "curve": [[100, accuracy / 2, 30.0], [200, accuracy, 60.0]],
        "test": {"as trained": {"accuracy": accuracy}},
    }


def test_sorting_names_the_models_in_order_at_the_longest_length(drawn, tmp_path):
    results = [
        sorted_by("transformer-xl", 1000, 0.9),
        sorted_by("transformer-xl", 2000, 0.25),
        sorted_by("infinity-former", 2000, 0.4),
        sorted_by("infinity-former", 2000, 0.5, seed=1),
        sorted_by("infinity-former-emptied", 2000, 0.2),
    ]
    sorting_plots.comparison(tmp_path / "comparison.png", results)
    (figure,) = drawn
    expected = "infinity-former 0.45, transformer-xl 0.25, infinity-former-emptied 0.20"
    assert figure.get_suptitle() == f"At 2,000 tokens: {expected}"
    by_length = figure.axes[2]
    bars = {line.get_color() for line in by_length.get_lines()}
    assert len(bars) == 2  # an emptied model has the colour of its model
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_whose_metrics_were_lost_has_its_picture_without_a_course(drawn, tmp_path):
    sorting_plots.accuracy_curve(tmp_path / "a.png", "", [], {"chance": 0.1}, {"test": 0.5}, 7)
    lost = sorted_by("vanilla", 10, 0.5) | {"curve": []}
    sorting_plots.comparison(tmp_path / "b.png", [lost])
    language_plots.perplexity(tmp_path / "c.png", "", read_by(0, 2.0) | {"curve": []})
    (points,) = (line for line in drawn[0].axes[0].get_lines() if line.get_label() == "test 0.500")
    assert [*points.get_xdata(), *points.get_ydata()] == [7, 0.5]
    assert [len(figure.axes[0].get_lines()[0].get_xdata()) for figure in drawn] == [0, 0, 0]


def read_by(seed, *losses):
    places = {"by_segment": {"first": list(range(len(losses))), "loss": losses}}
    return {
        "settings": {"seed": seed},
        "curve": [[1, 2.0], [2, 1.0]],
        "test": {"as trained": places},
    }


def test_language_models_name_the_best_gain_beside_the_emptied_ones(drawn, tmp_path):
    runs = {
        "base": [read_by(0, 9.0, 9.0)],
        "gpt2": [read_by(0, 2.0, 2.0), read_by(1, 3.0, 3.0)],
        "gpt2-infinity": [read_by(0, 2.0, 1.98), read_by(1, 3.0, 2.96)],
        "gpt2-infinity-emptied": [read_by(0, 2.0, 1.99)],
        "gpt2-compressive": [],
    }
    language_plots.comparison(tmp_path / "comparison.png", runs)
    # 100 (1 - e^-.02) = 1.98 and 100 (1 - e^-.04) = 3.92; their mean is 2.95. Emptied: 1.00.
    assert drawn[0].axes[1].get_title(loc="left") == (
        "Late in a document gpt2-infinity gains +3.0 %;\ntrained emptied at most +1.0 %"
    )


def test_retention_names_what_is_left_of_the_oldest_write(drawn, tmp_path):
    curves = {
        "τ = 0.75": {"linear": [1.0, 0.5], "density": [0.9, 0.125]},
        "p = 1": {"linear": [1.0, 0.8], "density": [0.9, 0.7]},
    }
    analysis_plots.retention(tmp_path / "retention.png", curves)
    title = "Of the oldest of 2 writes a density reads 0.12 (τ = 0.75), 0.70 (p = 1)"
    assert drawn[0].axes[0].get_title(loc="left") == title


def test_seeds_are_a_mean_and_a_band_where_all_are_known(drawn, tmp_path):
    """Of (0, 1, 2) and (1, 3) at 1 and 2: means 2 and 5, from 1 to 3 and from 2 to 8."""
    with plots.picture(tmp_path / "band.png") as axes:
        line = plots.band(axes, [((0, 1, 2), (0.0, 1.0, 2.0)), ((1, 3), (3.0, 13.0))])
        assert [*line.get_xdata()] == [1, 2] and [*line.get_ydata()] == [2, 5]
        (shade,) = axes.collections
        corners = {tuple(point) for point in shade.get_paths()[0].vertices}
        assert corners == {(1, 1), (1, 3), (2, 2), (2, 8)}
        plots.band(axes, [((0, 1), (4.0, 5.0))])
        assert len(axes.collections) == 1, "a single seed has no band"


def test_lines_are_named_where_they_end_and_apart(tmp_path):
    """By height, in the colour of the line, no two on one another; a formula stays text."""
    with plots.picture(tmp_path / "names.png") as axes:
        for label, end in {"top": 1.0, "b": 0.5, "a $x$": 0.499, "_aside": 0.2}.items():
            axes.plot([0, 1, 2], [0.0, end, float("nan")], label=label)
        axes.set_ylim(0, 1)
        plots.name_lines(axes)
        named = {text.get_text(): text for text in axes.texts}
    assert named.keys() == {"top", "b", "a $x$"}
    assert named["b"].get_color() == plots.COLORS[1]
    heights = {label: text.xy[1] for label, text in named.items()}
    assert heights["a $x$"] == pytest.approx(0.499) and heights["top"] == pytest.approx(1)
    assert 0.53 < heights["b"] < 0.56


def test_the_farthest_place_is_the_title(tmp_path):
    trained = {"as trained": (0.5, [1.0, 0.75, None]), "emptied": (0.2, [1.0, 0.25, None])}
    assert plots.farthest([1, 2, 4], trained) == "2 segments back: as trained 0.75, emptied 0.25"
    assert plots.farthest([1], {"as trained": (0.5, [None])}) == ""
