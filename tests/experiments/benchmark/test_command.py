"""`python -m experiments.benchmark`: its files, what it refuses, and the rows of the table."""

import json

import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.results.benchmark import benchmark_table


def test_a_measure_keeps_the_file_of_another(tmp_path, monkeypatch):
    """Each has the commit and the command that it was measured with."""
    generation = {"context": 16, "tokens": 2, "same": 2, "seconds_per_token": {}, "ratio": {}}
    stream = {"rows": [], "spread": 0.0}
    monkeypatch.setitem(benchmark.MEASURES, "generation", lambda cfg: generation)
    monkeypatch.setitem(benchmark.MEASURES, "stream", lambda cfg: stream)
    benchmark.main(["--measure", "generation", "--out", str(tmp_path)])
    kept = (tmp_path / "generation.json").read_bytes()
    benchmark.main(["--measure", "stream", "--out", str(tmp_path)])
    assert (tmp_path / "generation.json").read_bytes() == kept
    assert json.loads(kept)["found"] == {"generation": generation}
    assert json.loads((tmp_path / "stream.json").read_text())["found"] == {"stream": stream}


def test_every_measure_is_measured_by_default():
    assert benchmark.BenchmarkConfig().measure == tuple(benchmark.MEASURES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "all"], "measure: found all, accepted: presets, gpt2, smollm2, stream, "),
        (["--repeats", "0"], "repeats: found 0, accepted: a whole number ≥ 1"),
        (["--batch", "0"], "batch: found 0, accepted: a whole number ≥ 1"),
        (["--tokens", "9"], "tokens: found 9, accepted: a whole number ≥ 4096"),
        (["--presets", "paper-5k"], "presets: found paper-5k, accepted: infinity-former, "),
        (["--presets", "paper-4k:"], "presets: found paper-4k:, accepted: "),
        (["--presets", "paper-4k:0"], "presets: found paper-4k:0, accepted: "),
        (["--schedules", "both"], "schedules: found both, accepted: sequential, parallel"),
        (["--dtypes", "float16"], "dtypes: found float16, accepted: float32, bfloat16, "),
    ],
)
def test_refusals(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*options, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def lines(**found):
    result = {"found": found, "device": "cpu", "commit": "c", "date": "d"}
    return benchmark_table([result]).splitlines()[2:]


def row_of_floors(seconds):
    floors = {"floor": 0.25, "share": 0.25 / seconds, "bytes_floor": 0.0125}
    return {"seconds": seconds, **floors, "bytes_share": 0.0125 / seconds}


def test_a_row_of_the_table_for_each_way_to_generate():
    found = {
        "context": 512,
        "tokens": 64,
        "same": 63,
        "seconds_per_token": {"with the cache": 0.0123, "recomputed": 0.4},
        "ratio": {"with the cache": 1.0, "recomputed": 31.6},
    }
    floor = {"floor": 0.0041, "share": 1 / 3, "bytes_floor": 0.002, "bytes_share": 0.16}
    found["floors"] = dict.fromkeys(found["ratio"], floor)
    found["program_bytes"] = dict.fromkeys(found["ratio"], 2**19)
    assert lines(generation=found) == [
        "| a token at 512 of context, with the cache | 12.3 ms | 63 of 64 greedy tokens the same; "
        "floor 4.10 ms (33%), of bytes 2.00 ms (16%); 0.5 MiB of HLO | cpu, c, d |",
        "| a token at 512 of context, recomputed | 400.0 ms | 32 × with the cache, in pairs; "
        "floor 4.10 ms (33%), of bytes 2.00 ms (16%); 0.5 MiB of HLO | cpu, c, d |",
    ]


def test_rows_of_the_table_of_steps_and_of_a_stream():
    step = row_of_floors(1.25) | {
        "preset": "paper-4k:1",
        "schedule": "sequential",
        "dtype": "float32",
        "batch": 1,
        "least": 1.0,
        "tokens_per_second": 3277.0,
        "temporaries_mib": 123.4,
        "trace": 1.26,
        "compile": 5.26,
        "program_bytes": 3 * 2**19,
    }
    stream = row_of_floors(0.5) | {
        "tokens": 4096,
        "seconds_per_segment": 0.5,
        "seconds_per_token": 45e-6,
        "live_mib": 12.6,
        "host_mib": 321.0,
    }
    assert lines(steps={"rows": [step]}, stream={"rows": [stream]}) == [
        "| a segment of 128 after 4,096 tokens of one document | 500.0 ms, 45 µs a token | "
        "12.6 MiB alive, 321 of the process; floor 250 ms (50%), of bytes 12.5 ms (2%) "
        "| cpu, c, d |",
        "| a training step of `paper-4k`, B 1, sequential, float32 | 1,250 ms, least 1,000 | "
        "3,277 tokens/s; floor 250 ms (20%), of bytes 12.5 ms (1%); 123 MiB of temporaries; "
        "traced in 1.3 s, compiled in 5.3 s to 1.5 MiB of HLO | cpu, c, d |",
    ]


def test_rows_of_the_table_of_presets():
    """Older results of steps know neither devices nor the literal formulas: see above."""
    row = row_of_floors(0.5) | {"preset": "small", "batch": 8, "devices": 2}
    row |= {"tokens_per_second": 10240.0, "first_step": 9.84, "first_step_cached": 2.96}
    row |= {"temporaries_mib": 20.4, "state_mib": 3.14, "operators_mib": 0.5}
    row |= {"literal_floor": 0.3, "literal_share": 0.6}
    assert lines(presets={"rows": [row]}) == [
        "| preset `small`, B 8 on 2 devices | 10,240 tokens/s | first step after 9.8 s, 3.0 with "
        "compiled programs at hand; 20 MiB of temporaries, 3.1 of state, 0.5 of operators; "
        "a step 500 ms, floor 250 ms (50%), of bytes 12.5 ms (2%), of the literal formulas "
        "300 ms (60%) | cpu, c, d |"
    ]


def test_row_of_the_table_of_an_accelerator():
    row = {"option": "model.remat", "preset": "small", "measured": "3 ms", "verdict": "use"}
    assert lines(accelerator=row) == ["| model.remat, small | use | 3 ms | cpu, c, d |"]


def test_rows_of_the_table_of_the_memory_and_its_operators():
    def form(seconds, megabytes):
        return row_of_floors(seconds) | {"temporaries_mb": megabytes}

    row = {"part": "read", "pass": "forward", "ratio": 2.0, "error": 4.2e-6}
    row |= {"literal": form(1.0, 1400.4), "ours": form(0.5, 60.0)}
    built = {"contractions": 64, "build": 3.456, "build_processor": 1.25, "mb": 134.0}
    built |= {"forward": 1.0, "forward + backward": 2.0, "floor": 0.864, "share": 0.25}
    built |= {"forward + backward, program_bytes": 2**19}
    memory = {"sizes": {"B": 8}, "rows": [row]}
    assert lines(memory=memory, operators={"lasting": built}) == [
        "| memory of 8 rows, read, forward, literal | 1,000 ms | "
        "floor 250 ms (25%), of bytes 12.5 ms (1%), 1,400 MB of temporaries | cpu, c, d |",
        "| memory of 8 rows, read, forward, ours | 500 ms | literal / ours 2.00 in pairs, "
        "error 4e-06; floor 250 ms (50%), of bytes 12.5 ms (2%), 60 MB of temporaries "
        "| cpu, c, d |",
        "| write operators of lasting built (64 τ, 134 MB) | 3.46 s | floor 0.86 s (25%); "
        "1.2 s of the processor; read + write compiled in 1.0 s, with its gradient in 2.0 s to "
        "0.5 MiB of HLO | cpu, c, d |",
    ]
