"""README's tables of speed."""

from experiments.run.tables import Result, markdown, source


def benchmark_table(results: list[Result]) -> str:
    """What `experiments.benchmark` measured, a row a variant."""
    rows = []
    for result in results:
        found, said = result["found"], source([result])
        if "hugetlb" in result.get("glibc_tunables", ""):
            said += ", large pages"
        for label, seconds in found.get("gpt2", {}).get("seconds", {}).items():
            ratio = f"{found['gpt2']['ratio']:.2f} × plain, in pairs" if label != "plain" else ""
            floors = _floors(found["gpt2"].get("floors", {}).get(label))
            ratio = "; ".join(filter(None, (ratio, floors)))
            what = f"GPT-2 small, one segment of 512 forward, {label}"
            rows.append([what, f"{1e3 * seconds:,.0f} ms", ratio, said])
        for row in found.get("stream", {}).get("rows", []):
            what = f"a segment of 128 after {row['tokens']:,} tokens of one document"
            time = f"{1e3 * row['seconds_per_segment']:.1f} ms"
            alive = f"{row['live_mib']:.1f} MiB alive"
            if "floor" in row:
                alive += f", {row['host_mib']:,.0f} of the process; {_floors(row)}"
                time += f", {1e6 * row['seconds_per_token']:.0f} µs a token"
            rows.append([what, time, alive, said])
        rows += [[*cells, said] for cells in _step_rows(found.get("steps"))]
        for task, by_k in found.get("memory_gradient", {}).items():
            for k, row in by_k.items():
                what = f"an update, {task}, gradient {k} segments back"
                memory = f"{row['temporaries_mib']:.0f} MiB of temporaries"
                if "floor" in row:
                    memory = f"{_floors(row)}; {memory}; {_hlo(row['program_bytes'])}"
                rows.append([what, f"{1e3 * row['seconds']:,.0f} ms", memory, said])
        rows += [[*cells, said] for cells in _generation_rows(found.get("generation"))]
        rows += [[*cells, said] for cells in _memory_rows(found.get("memory"))]
        rows += [[*cells, said] for cells in _operator_rows(found.get("operators", {}))]
    return markdown(("measured", "median", "", "device, commit, date"), rows)


def _generation_rows(found):
    """Of a benchmark's generation, if it was measured: the cells before the last column."""
    for label, seconds in (found or {}).get("seconds_per_token", {}).items():
        versus = f"{found['same']} of {found['tokens']} greedy tokens the same"
        if label != "with the cache":
            versus = f"{found['ratio'][label]:.0f} × with the cache, in pairs"
        if "floors" in found:
            versus += f"; {_floors(found['floors'][label], 2)}; "
            versus += _hlo(found["program_bytes"][label])
        what = f"a token at {found['context']} of context, {label}"
        yield [what, f"{1e3 * seconds:,.1f} ms", versus]


def _floors(of, digits=0):
    """What `benchmark_timing.floors` says, in words; older results have no floor of bytes."""
    if not of:
        return ""
    said = f"floor {1e3 * of['floor']:,.{digits}f} ms ({of['share']:.0%})"
    if "bytes_floor" in of:
        of_bytes = f"{1e3 * of['bytes_floor']:,.{max(1, digits)}f}"
        said += f", of bytes {of_bytes} ms ({of['bytes_share']:.0%})"
    return said


def _hlo(size):
    return f"{size / 2**20:.1f} MiB of HLO"


def _step_rows(found):
    """Of the training steps: their medians beside their floors."""
    for row in (found or {}).get("rows", []):
        what = (
            f"a training step of `{row['preset'].partition(':')[0]}`, B {row['batch']}, "
            f"{row['schedule']}, {row['dtype']}"
        )
        versus = (
            f"{row['tokens_per_second']:,.0f} tokens/s; {_floors(row)}; "
            f"{row['temporaries_mib']:,.0f} MiB of temporaries; "
            f"traced in {row['trace']:.1f} s, compiled in {row['compile']:.1f} s to "
            f"{_hlo(row['program_bytes'])}"
        )
        yield [what, f"{1e3 * row['seconds']:,.0f} ms, least {1e3 * row['least']:,.0f}", versus]


def _memory_rows(found):
    """Of the memory by itself: both forms of each part beside their floors."""
    for row in (found or {}).get("rows", []):
        for form in ("literal", "ours"):
            of, versus = row[form], ""
            if form == "ours":
                versus = f"literal / ours {row['ratio']:.2f} in pairs, error {row['error']:.0e}; "
            versus += f"{_floors(of)}, {of['temporaries_mb']:,.0f} MB of temporaries"
            what = f"memory of {found['sizes']['B']} rows, {row['part']}, {row['pass']}, {form}"
            yield [what, f"{1e3 * of['seconds']:,.0f} ms", versus]


def _operator_rows(found):
    """Seconds to build operators, and beside them to compile the memory."""
    for name, of in found.items():
        compiled = (
            f"{of['build_processor']:.1f} s of the processor; read + write compiled in "
            f"{of['forward']:.1f} s, with its gradient in {of['forward + backward']:.1f} s"
        )
        if "floor" in of:
            size = _hlo(of["forward + backward, program_bytes"])
            compiled = f"floor {of['floor']:.2f} s ({of['share']:.0%}); {compiled} to {size}"
        what = f"write operators of {name} built ({of['contractions']} τ, {of['mb']:,.0f} MB)"
        yield [what, f"{of['build']:,.2f} s", compiled]
