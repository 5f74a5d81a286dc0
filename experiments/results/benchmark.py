"""The table of speed: what `experiments.benchmark` measured, a row a variant."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.run.tables import SOURCE, Result, markdown, source

Found = Mapping[str, Any]


class Row(NamedTuple):
    """A row of the table, and what it was made from."""

    what: str  # was measured
    median: str
    versus: str  # what the median is held against
    figures: Found


def benchmark_table(results: list[Result]) -> str:
    """Medians of every measure beside their floors."""
    rows = []
    for result in results:
        origin = source([result])
        if "hugetlb" in result.get("glibc_tunables", ""):
            origin += ", large pages"
        rows += [[*row[:3], origin] for row in benchmark_rows(result["found"])]
    return markdown(("measured", "median", "", SOURCE), rows)


def benchmark_rows(found: Found) -> Iterator[Row]:
    """The rows of every measure that a result holds."""
    for measure, rows in _MEASURES.items():
        if measure in found:
            yield from rows(found[measure])


def _ms(seconds: float, digits: int = 0) -> str:
    return f"{1e3 * seconds:,.{digits}f} ms"


def _floors(row: Found, digits: int = 0) -> str:
    """The least time for the row's products, and for its bytes, with the share of the median."""
    work = f"floor {_ms(row['floor'], digits)} ({row['share']:.0%})"
    moved = f"of bytes {_ms(row['bytes_floor'], max(1, digits))} ({row['bytes_share']:.0%})"
    return f"{work}, {moved}"


def _literal(row: Found) -> str:
    """The floor of the paper's formulas, which older results have not."""
    if "literal_floor" not in row:
        return ""
    return f", of the literal formulas {_ms(row['literal_floor'])} ({row['literal_share']:.0%})"


def _devices(row: Found) -> str:
    count = row.get("devices", 1)
    return "" if count == 1 else f" on {count} devices"


def _preset_rows(found: Found) -> Iterator[Row]:
    """What a user asks of each preset."""
    for row in found["rows"]:
        what = f"preset `{row['preset'].partition(':')[0]}`, B {row['batch']}{_devices(row)}"
        median = f"{row['tokens_per_second']:,.0f} tokens/s"
        state, tables = row["state_mib"], row["operators_mib"]
        versus = (
            f"first step after {row['first_step']:.1f} s, {row['first_step_cached']:.1f} with "
            f"compiled programs at hand; {row['temporaries_mib']:,.0f} MiB of temporaries, "
            f"{state:,.1f} of state, {tables:,.1f} of operators; a step {_ms(row['seconds'])}, "
            f"{_floors(row)}{_literal(row)}"
        )
        yield Row(what, median, versus, row)


def _program(size: int) -> str:
    return f"{size / 2**20:.1f} MiB of HLO"


def _gpt2_rows(found: Found) -> Iterator[Row]:
    for label, seconds in found["seconds"].items():
        row = found["floors"][label]
        versus = _floors(row)
        if label != "plain":
            versus = f"{found['ratio']:.2f} × plain, in pairs; {versus}"
        what = f"GPT-2 small, one segment of 512 forward, {label}"
        yield Row(what, _ms(seconds), versus, {**row, "seconds": seconds})


def _smollm2_rows(found: Found) -> Iterator[Row]:
    for row in found["rows"]:
        versus = _floors(row)
        if row["label"].startswith("with memory"):
            versus = f"{row['ratio']:.2f} × plain, in pairs; {versus}"
        yield Row(f"SmolLM2-135M, {row['what']}, {row['label']}", _ms(row["seconds"]), versus, row)


def _stream_rows(found: Found) -> Iterator[Row]:
    for row in found["rows"]:
        median = f"{_ms(row['seconds_per_segment'], 1)}, {1e6 * row['seconds_per_token']:.0f} µs"
        alive = f"{row['live_mib']:.1f} MiB alive, {row['host_mib']:,.0f} of the process"
        what = f"a segment of 128 after {row['tokens']:,} tokens of one document"
        timed = {**row, "seconds": row["seconds_per_segment"]}
        yield Row(what, f"{median} a token", f"{alive}; {_floors(row)}", timed)


def _step_rows(found: Found) -> Iterator[Row]:
    for row in found["rows"]:
        preset = row["preset"].partition(":")[0]
        what = f"`{preset}`, B {row['batch']}, {row['schedule']}, {row['dtype']}{_devices(row)}"
        versus = (
            f"{row['tokens_per_second']:,.0f} tokens/s; {_floors(row)}{_literal(row)}; "
            f"{row['temporaries_mib']:,.0f} MiB of temporaries; traced in {row['trace']:.1f} s, "
            f"compiled in {row['compile']:.1f} s to {_program(row['program_bytes'])}"
        )
        median = f"{_ms(row['seconds'])}, least {1e3 * row['least']:,.0f}"
        yield Row(f"a training step of {what}", median, versus, row)


def _pair_rows(found: Found) -> Iterator[Row]:
    """Training steps of another commit and of this one, which took turns."""
    for row in found["rows"]:
        what = f"a training step of `{row['preset']}`, {row['schedule']}, beside {found['commit']}"
        if "refused" in row:
            yield Row(what, "", row["refused"], {"seconds": 0.0})
            continue
        versus = (
            f"{row['ratio']:.2f} × as fast in pairs, {row['least_ratio']:.2f} by the least; then "
            f"{_ms(row['then'])} on {row['devices']['then']} devices, now on "
            f"{row['devices']['now']}; {row['tokens'] / row['seconds']:,.0f} tokens/s"
        )
        yield Row(what, _ms(row["seconds"]), versus, row)


def _accelerator_rows(row: Found) -> Iterator[Row]:
    """An option on an accelerator, and whether to use it."""
    yield Row(f"{row['option']}, {row['preset']}", row["verdict"], row["measured"], row)


def _gradient_rows(found: Found) -> Iterator[Row]:
    for task, by_segments in found.items():
        for segments, row in by_segments.items():
            size = f"{row['temporaries_mib']:.0f} MiB of temporaries"
            versus = f"{_floors(row)}; {size}; {_program(row['program_bytes'])}"
            what = f"an update, {task}, gradient {segments} segments back"
            yield Row(what, _ms(row["seconds"]), versus, row)


def _generation_rows(found: Found) -> Iterator[Row]:
    for label, seconds in found["seconds_per_token"].items():
        versus = f"{found['same']} of {found['tokens']} greedy tokens the same"
        if label != "with the cache":
            versus = f"{found['ratio'][label]:.0f} × with the cache, in pairs"
        row = found["floors"][label]
        versus += f"; {_floors(row, 2)}; {_program(found['program_bytes'][label])}"
        what = f"a token at {found['context']} of context, {label}"
        yield Row(what, _ms(seconds, 1), versus, {**row, "seconds": seconds})


def _memory_rows(found: Found) -> Iterator[Row]:
    """The paper's formulas taken literally, and ours, of each part of the memory."""
    for row in found["rows"]:
        for form in ("literal", "ours"):
            timed = row[form]
            versus = f"{_floors(timed)}, {timed['temporaries_mb']:,.0f} MB of temporaries"
            if form == "ours":
                error = f"error {row['error']:.0e}"
                versus = f"literal / ours {row['ratio']:.2f} in pairs, {error}; {versus}"
            what = f"memory of {found['sizes']['B']} rows, {row['part']}, {row['pass']}, {form}"
            yield Row(what, _ms(timed["seconds"]), versus, timed)


def _design_rows(found: Found) -> Iterator[Row]:
    """Each design of the memory of one layer, beside the paper's."""
    for row in found["rows"]:
        versus = (
            f"{row['ratio']:.2f} times the paper's in pairs; {_floors(row, 1)}; "
            f"{row['temporaries_mib']:,.1f} MiB of temporaries, {row['operators_mb']:,.1f} MB of "
            f"operators"
        )
        what = f"{row['design']}, {row['part']}, {row['pass']}"
        yield Row(what, _ms(row["seconds"], 1), versus, row)


def _operator_rows(found: Found) -> Iterator[Row]:
    """Seconds to build operators, and to compile the memory that uses them."""
    for name, row in found.items():
        versus = (
            f"floor {row['floor']:.2f} s ({row['share']:.0%}); "
            f"{row['build_processor']:.1f} s of the processor; read + write compiled in "
            f"{row['forward']:.1f} s, with its gradient in {row['forward + backward']:.1f} s to "
            f"{_program(row['forward + backward, program_bytes'])}"
        )
        what = f"write operators of {name} built ({row['contractions']} τ, {row['mb']:,.0f} MB)"
        yield Row(what, f"{row['build']:,.2f} s", versus, {**row, "seconds": row["build"]})


#: Measure → its rows, in the order of the table.
def _save_rows(found: Found) -> Iterator[Row]:
    """What checkpoints cost a run."""
    what = f"a checkpoint every {found['updates']} updates of `{found['preset']}`{_devices(found)}"
    least, most = found["costs"][0], found["costs"][-1]
    versus = (
        f"{least:+.1%} to {most:+.1%} in {len(found['costs'])} pairs of blocks of "
        f"{_ms(found['seconds'])}; updates wait for {_ms(found['kept_waiting'])} of it; "
        f"{found['state_mib']:.1f} MiB of state"
    )
    yield Row(what, f"{found['cost']:+.1%} of the time", versus, found)


_MEASURES = {
    "presets": _preset_rows,
    "gpt2": _gpt2_rows,
    "smollm2": _smollm2_rows,
    "stream": _stream_rows,
    "steps": _step_rows,
    "compare": _pair_rows,
    "accelerator": _accelerator_rows,
    "memory_gradient": _gradient_rows,
    "generation": _generation_rows,
    "memory": _memory_rows,
    "designs": _design_rows,
    "operators": _operator_rows,
    "saves": _save_rows,
}
