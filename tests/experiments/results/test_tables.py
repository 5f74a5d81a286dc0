"""Tables of results, from results that are written by hand."""

from experiments.results import (
    dialogue,
    language,
    memories,
    precision,
    probes,
    sorting,
    summary,
)
from experiments.run.tables import CONTROL, TRAINED, groups


def sorting_run(preset, seed, accuracy, **settings):
    return {
        "preset": preset,
        "device": "d",
        "commit": "c",
        "date": "2026-01-01",
        "parameters": 1000,
        "steps": 10,
        "tokens_per_second": 5000,
        "seconds": 120,
        "settings": {"length": 100, "seed": seed} | settings,
        "test": {"as trained": {"accuracy": accuracy}},
        "baselines": {"exact counts, 2 layers × window": 0.25, "full counts": 1.0},
    }


def test_seeds_are_pooled_and_other_settings_are_not():
    runs = [sorting_run("a", 0, 0.5), sorting_run("a", 1, 0.7), sorting_run("a", 0, 0.9, tau=1)]
    rows = sorting.sorting_table(runs).splitlines()[2:]
    assert len(rows) == 2
    assert rows[0].startswith("| `a` | 100 | 2 | 0.600 ± 0.141 |")
    assert rows[1].startswith("| `a` | 100 | 1 | 0.900 |") and "2.0" in rows[1]


def test_settings_that_older_versions_had_not_are_off():
    """A setting that is 0, False or empty is like none; one that is on is another run."""
    old = sorting_run("a", 0, 0.5, model={"width": 8})
    off = sorting_run("a", 1, 0.5, model={"width": 8, "new": False}, minutes=0.0, other={"x": 0})
    on = sorting_run("a", 2, 0.5, model={"width": 8, "new": True})
    assert list(groups([old, off, on])) == [[old, off], [on]]


def test_precision_is_of_runs_that_differ_in_nothing_else():
    def run(dtype, seed, experiment, curve, test):
        settings = {"seed": seed, "out": str(seed), "model": {"dtype": dtype}, "task": experiment}
        return {
            "experiment": experiment,
            "preset": "tiny",
            "settings": settings,
            "curve": curve,
            "test": test,
            "tokens_per_second": 1000 + seed,
            "device": "cpu",
            "commit": "c",
            "date": "d",
        }

    sorts = [
        run(
            dtype,
            seed,
            "sorting",
            [[10, 0.1 + seed, 1.0], [20, 0.5, 2.0]],
            {"as trained": {"accuracy": 0.5}, CONTROL: {"accuracy": 0.25 + seed}},
        )
        for dtype in ("float32", "bfloat16")
        for seed in (0, 1)
    ]
    perplexity = {"as trained": {"perplexity": 60.0}}
    text = run("float32", 0, "language_modeling", [[5, 4.0, 1.0]], perplexity)
    rows = precision.precision_table([*sorts, text]).splitlines()[2:]
    assert rows[0] == (
        "| language modeling | `tiny` | float32 | 1 | loss at 5: 4.000 | perplexity 60.000 |  | "
        "1,000 | cpu, c, d |"
    )
    for line, dtype in zip(rows[1:], ("bfloat16", "float32"), strict=True):
        assert line == (
            f"| sorting | `tiny` | {dtype} | 2 | accuracy at 10: 0.600 ± 0.707, 20: 0.500 ± 0.000 "
            "| accuracy 0.500 ± 0.000 | accuracy 0.750 ± 0.707 | 1,000 | cpu, c, d |"
        )


def language_run(preset, seed, perplexity, emptied=None, piece=0, init_from="base"):
    test = {"as trained": {"perplexity": perplexity}}
    if emptied:
        test[CONTROL] = {"perplexity": emptied}
    settings = {"seed": seed, "piece": piece, "init_from": init_from}
    return {"corpus": "novels", "preset": preset, "settings": settings, "test": test}


def test_pairs_are_of_the_same_seed_and_text():
    """Seed 2 has no plain run, and the pieces no other run. A run from nothing is left out."""
    runs = [
        language_run("gpt2", 0, 20.0),
        language_run("gpt2", 1, 24.0),
        language_run("gpt2", 2, 99.0, init_from=""),
        language_run("mine", 0, 18.0, 18.5),
        language_run("mine", 1, 21.0, 22.5),
        language_run("mine", 2, 10.0, 11.0),
        language_run("mine-emptied", 2, 9.0),
        language_run("mine", 0, 5.0, 6.0, piece=3),
    ]
    assert language.pairs_table(runs).splitlines()[2:] == [
        "| novels | mine | 3 | 2.50 ± 0.71 | 1.00 ± 0.50 | -1.00 |",
        "| novels | mine, pieces of 3 | 1 |  | 1.00 |  |",
    ]


def control(run, accuracy):
    return run | {"test": run["test"] | {CONTROL: {"accuracy": accuracy}}}


def test_summary_takes_the_best_of_ours_and_the_best_of_the_others(monkeypatch):
    """Other lengths, models trained with an empty memory and full counts are left out."""
    row = {"sorting": summary.Task("compare", "numbers", settings={"length": 100})}
    monkeypatch.setattr(summary, "TASKS", row)
    runs = [
        control(sorting_run("infinity", 0, 0.5), 0.1),
        control(sorting_run("infinity", 1, 0.7), 0.1),
        control(sorting_run("infinity-sticky", 0, 0.4), 0.2),
        sorting_run("infinity-emptied", 0, 0.95),
        sorting_run("infinity", 0, 0.99, length=50),
        sorting_run("plain", 0, 0.3),
    ]
    (line,) = summary.summary_table({"compare": runs}).splitlines()[2:]
    assert line == (
        "| [sorting](experiments/sorting/README.md): numbers | accuracy "
        "| 0.600 ± 0.141 (infinity) | 0.300 (plain) | 0.100 ± 0.000 |"
    )
    (line,) = summary.summary_table({"compare": runs[:-1]}).splitlines()[2:]
    assert "0.250 ± 0.000 (exact counts, 2 layers × window)" in line


def test_summary_counts_other_memories_on_the_same_task(monkeypatch):
    """Those of the task's sizes, by whatever name; one trained with an empty memory is left out."""
    monkeypatch.setattr(summary, "TASKS", {"recall": summary.Task("recall", "", sizes={"n": 4})})

    def run(preset, accuracy, n=4, experiment="recall"):
        given = control(sorting_run(preset, 0, accuracy), 0.1)
        settings = {**given["settings"], "task": {"n": n}}
        return {**given, "experiment": experiment, "settings": settings}

    name = "intervals-gibbs-power-uniform"
    others = [run(name, 0.8), run(f"{name}-emptied", 0.99), run("ridge-gibbs-fixed-sticky", 0.7)]
    others += [run(name, 0.9, n=8), run(name, 0.95, experiment="sorting")]
    given = {"recall": [run("infinity", 0.6), run("plain", 0.3)], "memories": others}
    (line,) = summary.summary_table(given).splitlines()[2:]
    assert "| 0.800 (intervals-gibbs-power-uniform) | 0.300 (plain) |" in line


def test_lower_perplexities_are_better(monkeypatch):
    row = {"language_modeling": summary.Task("language_modeling", "novels", "perplexity")}
    monkeypatch.setattr(summary, "TASKS", row)
    runs = [
        language_run("gpt2-infinity", 0, 18.0, 18.5),
        language_run("gpt2-infinity-lasting", 0, 19.0, 20.0),
        language_run("gpt2", 0, 21.0),
    ]
    runs[-1]["test"]["sliding window"] = {"perplexity": 17.5}
    runs = [run | {"device": "d"} for run in runs]
    (line,) = summary.summary_table({"language_modeling": runs}).splitlines()[2:]
    assert line.endswith(
        "| perplexity | 18.00 (gpt2-infinity) | 17.50 (gpt2, sliding window) | 18.50 |"
    )


def talk(settings, nats, trained=None, replies=9, **controls):
    """A result on two conversations of 10 tokens each; nats of both, and of the controls.

    Args:
        trained: the config of the run that was evaluated; None = the result is a run's own.
        replies: how many were scored.
    """

    def figures(nats):
        by = {"nats": list(nats), "tokens": [10, 10]}
        return {"perplexity": 2.0, "by_conversation": by}

    named = {"emptied": CONTROL, "another": dialogue.ANOTHER}
    test = {TRAINED: figures(nats)} | {named[k]: figures(v) for k, v in controls.items()}
    scores = {"f1": 7.0, "rouge_l": 8.0, "meteor": None, "errors": {"f1": 0.5}}
    scores["count"] = replies
    source = {"device": "d", "commit": "c", "date": "t"}
    evaluated = {} if trained is None else {"trained": trained}
    return {"settings": settings, "test": test, "replies": scores, **source, **evaluated}


def test_conversations_are_compared_with_their_own_controls():
    """Gains by hand: (3 + 1) of 20 tokens, and half the difference of both as their error."""

    def run(empty, seed=0):
        cells = {"num_basis": 512, "sticky": True, "learn_worth": True, "tau": 0.5}
        cells |= {"contraction": "kept"}
        model = {"segment_len": 256, "mem_len": 256, "long_term": cells}
        some = dict.fromkeys(("layout", "objective", "init_from", "batch_size"), 1)
        some |= {"layout": {"document": "whole"}, "objective": {"empty_memory": empty}}
        return some | {"model": model, "optim": {"steps": 30}, "seed": seed}

    bare = {"model": {"segment_len": 64, "mem_len": 32, "long_term": None}, "seed": 2}
    bare |= {"optim": {"steps": 5}, "objective": {"empty_memory": False}}
    given = {"document": "whole", "window": 256, "cells": 0, "memory": ""}
    results = [
        talk(given, (30, 30), another=(30, 30)),
        talk(given | {"window": 768}, (20, 20)),
        talk(run(False), (27, 29), emptied=(28, 30), another=(31, 33)),
        talk(run(True), (28, 28)),
        # Of another seed, it is compared with nothing; a single reply has no scores.
        talk(run(True, seed=1), (0, 0), replies=1),
        # A run of another experiment without a memory: its window is its own.
        talk(given | {"window": 0}, (30, 20), trained=bare),
    ]
    rows = [row.split(" | ")[:7] for row in dialogue.given_table(results).splitlines()[2:]]
    memory = "the document, window 256, 512 cells, kept by worth"
    assert rows == [
        ["| the document, a window of 256", "2.00", "", "", "", "0.0 ± 0.0", "7.0 ± 0.5"],
        ["| the document, a window of 768", "2.00", "100.0 ± 0.0", "", "", "", "7.0 ± 0.5"],
        [
            f"| {memory}, trained by 30 updates, seed 0",
            "2.00",
            "20.0 ± 10.0",
            "0.0 ± 10.0",
            "10.0 ± 0.0",
            "40.0 ± 0.0",
            "7.0 ± 0.5",
        ],
        [
            f"| {memory}, trained emptied by 30 updates, seed 0",
            "2.00",
            "20.0 ± 0.0",
            "",
            "",
            "",
            "7.0 ± 0.5",
        ],
        [
            f"| {memory}, trained emptied by 30 updates, seed 1",
            "2.00",
            "300.0 ± 0.0",
            "",
            "",
            "",
            "",
        ],
        [
            "| the document, window 32, trained by 5 updates, seed 2",
            "2.00",
            "50.0 ± 50.0",
            "",
            "",
            "",
            "7.0 ± 0.5",
        ],
    ]


def asked(settings, distances, accuracy, task=None, **more):
    """A result of four documents at each distance, with one figure for all of them.

    Args:
        task: what is asked for; None = a key among four.
    """
    figures = {"documents": 4, "distances": distances}
    figures |= {"accuracy_by_distance": [accuracy] * len(distances)}
    figures |= {"keys_by_distance": [accuracy / 2] * len(distances)}
    source = {"device": "d", "commit": f"c{len(distances)}", "date": "t"}
    given = settings | {"task": {"distances": distances} | (task or {"others": 3})}
    return {"preset": "llama", "settings": given, "test": {TRAINED: figures}} | source | more


def test_a_run_and_its_evaluations_are_one_row():
    """What was given, or trained for it, tells rows apart; a queue says how coarse it is."""

    def run(seed, tau=0.875, empty=False):
        cells = {"num_basis": 512, "sticky": False, "contraction": "kept", "tau": tau}
        model = {"segment_len": 64, "mem_len": 64, "long_term": cells}
        some = {"model": model, "optim": {"steps": 10}, "task": {"distances": [2, 5]}}
        return some | {"seed": seed, "init_from": "x/llama", "objective": {"empty_memory": empty}}

    given = {"segment_len": 64, "window": 576, "sinks": 4, "cells": 0, "cell_tau": 0, "memory": ""}
    results = [
        asked(run(0), [2, 5], 1.0),
        asked({}, [64], 0.5, trained=run(0)),
        asked(run(1, 0.96875, True), [2], 0.25),
        asked(given, [2], 0.75),
        asked(given, [5], 0.5, {"kind": "fact", "others": 2}),  # whole answers are counted
        asked(given, [64], 1.0, {"kind": "fact", "others": 0}),
    ]
    rows = [row.split(" | ")[2:] for row in probes.given_table(results).splitlines()]
    assert rows[0][:4] == ["given", "2", "5", "64"]
    assert rows[2:] == [
        [
            "segments of 64, window 64, 512 cells, a queue, 10 updates at distances 2 5, seed 0, "
            "a key among 4, 4 documents",
            "1.00",
            "1.00",
            "0.50",
            "d, c1, c2, t |",
        ],
        [
            "segments of 64, window 64, 512 cells, a queue, means of 4 tokens, trained emptied "
            "by 10 updates at distances 2, seed 1, a key among 4, 4 documents",
            "0.25",
            "",
            "",
            "d, c1, t |",
        ],
        [
            "segments of 64, window 576, 4 sinks, a key among 4, 4 documents",
            "0.75",
            "",
            "",
            "d, c1, t |",
        ],
        [
            "segments of 64, window 576, 4 sinks, a fact among 3, 4 documents",
            "",
            "0.25",
            "",
            "d, c1, t |",
        ],
        [
            "segments of 64, window 576, 4 sinks, a fact, 4 documents",
            "",
            "",
            "0.50",
            "d, c1, t |",
        ],
    ]


def test_an_evaluation_has_the_model_and_the_updates_of_its_run():
    """What was asked is the evaluation's; it has no rate of training. Seeds make one row."""
    cells = {"num_basis": 512, "density": "gibbs", "unit_cells": True}
    model = {"mem_len": 0, "memory_gradient": 8, "long_term": cells}
    run = {"model": model, "optim": {"steps": 800}, "task": {"distances": [1, 7]}}
    figures = {"accuracy": 0.75, "distances": [2, 64], "accuracy_by_distance": [1.0, 0.5]}
    evaluation = {
        "experiment": "passkey",
        "preset": "infinity-former-worth",
        "settings": {"task": {"distances": [2, 64]}, "seed": 3},
        "trained": run,
        "test": {TRAINED: figures},
        "device": "d",
        "commit": "c",
        "date": "t",
    }
    other = evaluation | {"trained": run | {"seed": 1}}
    both = [
        one | {"settings": one["settings"] | {"run": f"x{i}"}}
        for i, one in enumerate((evaluation, other))
    ]
    assert [len(runs) for runs in groups(both)] == [2]
    for evaluations, count, spread in (([evaluation], "1", "0.750"), (both, "2", "0.750 ± 0.000")):
        (row,) = memories.memories_table("passkey", evaluations).splitlines()[2:]
        expected = ["| infinity-former-worth", "64", "0", "512", "8", "unit", count, spread]
        expected += ["2: 1.00 64: 0.50", "", "", "", "800", "", "d, c, t |"]
        assert row.split(" | ") == expected


def test_seeds_on_another_text_are_one_row():
    """Older evaluations have the folder's name for a preset, which ends with the seed."""

    def read(preset, perplexity):
        figures = {"perplexity": perplexity, "word_perplexity": 2.0, "bits_per_byte": 1.0}
        source = {"device": "d", "commit": "c", "date": "t"}
        return {"corpus": "x", "preset": preset, "test": {TRAINED: figures}} | source

    named = [
        read("gpt2-infinity-0", 3.0),
        read("gpt2-infinity", 5.0),
        read("gpt2-infinity-tau", 7.0),
    ]
    rows = [row.split(" | ")[:4] for row in language.other_text_table(named).splitlines()[2:]]
    assert rows == [
        ["| x", "gpt2-infinity", "2", "4.00 ± 1.41"],
        ["| x", "gpt2-infinity-tau", "1", "7.00"],
    ]
