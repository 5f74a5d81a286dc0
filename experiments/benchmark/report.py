"""What `experiments.benchmark` prints for people."""

from collections.abc import Mapping
from typing import Any


def report(found: Mapping[str, Any]) -> None:
    """Print what was measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    if "gpt2" in found:
        of = found["gpt2"]
        table = Table("GPT-2 small, one segment forward", "seconds", *FLOORS)
        for label, seconds in of["seconds"].items():
            table.add_row(label, f"{seconds:.4f}", *_floors(of["floors"][label]))
        table.add_row("ratio", f"{of['ratio']:.3f}")
        console.print(table)
    if "generation" in found:
        of = found["generation"]
        table = Table(f"a token at {of['context']} of context", "ms", "× with the cache", *FLOORS,
                      "program KiB")  # fmt: skip
        for label, seconds in of["seconds_per_token"].items():
            table.add_row(
                label, f"{1e3 * seconds:.2f}", f"{of['ratio'][label]:.1f}",
                *_floors(of["floors"][label]), f"{of['program_bytes'][label] / 1024:.0f}",
            )  # fmt: skip
        table.add_row("greedy tokens the same", f"{of['same']} of {of['tokens']}", "")
        console.print(table)
    if "memory_gradient" in found:
        table = Table("gradient k segments back", "k", "ms an update", *FLOORS, "temporaries, MiB",
                      "compile, s", "program KiB")  # fmt: skip
        for task, rows in found["memory_gradient"].items():
            for k, row in rows.items():
                table.add_row(
                    task, k, f"{1e3 * row['seconds']:.0f}", *_floors(row),
                    f"{row['temporaries_mib']:.1f}", f"{row['compile']:.1f}",
                    f"{row['program_bytes'] / 1024:.0f}",
                )  # fmt: skip
        console.print(table)
    if "stream" in found:
        table = Table("tokens read", "ms a segment", *FLOORS, "live arrays, MiB", "process, MiB")
        for row in found["stream"]["rows"]:
            table.add_row(
                f"{row['tokens']:,}", f"{1e3 * row['seconds_per_segment']:.2f}", *_floors(row),
                f"{row['live_mib']:.1f}", f"{row['host_mib']:.0f}",
            )  # fmt: skip
        console.print(table)
        console.print(
            f"the slowest context takes {found['stream']['spread']:.1%} more than the fastest"
        )
    _print_steps(console, found)
    _print_memory(console, found)


#: Columns of `_floors`.
FLOORS = ("floor, ms", "share", "bytes' floor, ms", "share")


def _floors(row):
    """Cells by FLOORS of what `benchmark_timing.floors` says."""
    return (f"{1e3 * row['floor']:.2f}", f"{row['share']:.2f}",
            f"{1e3 * row['bytes_floor']:.2f}", f"{row['bytes_share']:.2f}")  # fmt: skip


def _print_steps(console, found):
    from rich.table import Table

    if "steps" in found:
        rates = found["steps"]["rates"]
        said = (f"{kind} {rate / 1e9:.1f} G" for kind, rate in rates.items())
        console.print(f"training steps; this machine, a second: {', '.join(said)}")
        table = Table("step", "B", "ms", "least", *FLOORS, "tokens/s", "temp. MiB",
                      "trace, s", "compile, s", "program KiB")  # fmt: skip
        for row in found["steps"]["rows"]:
            table.add_row(
                f"{row['preset']}, {row['schedule']}, {row['dtype']}", str(row["batch"]),
                f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['least']:.1f}", *_floors(row),
                f"{row['tokens_per_second']:,.0f}", f"{row['temporaries_mib']:.1f}",
                f"{row['trace']:.1f}", f"{row['compile']:.1f}",
                f"{row['program_bytes'] / 1024:.0f}",
            )  # fmt: skip
        console.print(table)


def _print_memory(console, found):
    from rich.table import Table

    if "memory" in found:
        of = found["memory"]
        sizes = ", ".join(f"{name} {size:,}" for name, size in of["sizes"].items())
        console.print(
            f"the memory by itself: {sizes}; products at {of['gflops']:.1f} GFLOP/s, "
            f"bytes at {of['gb_per_second']:.1f} GB/s"
        )
        table = Table("part", "form", "ms", *FLOORS, "temporary MB", "ratio", "error")
        for row in of["rows"]:
            for form in ("literal", "ours"):
                one, last = row[form], ["", ""]
                if form == "ours":
                    last = [f"{row['ratio']:.2f}", f"{row['error']:.0e}"]
                table.add_row(
                    f"{row['part']}, {row['pass']}", form, f"{1e3 * one['seconds']:.1f}",
                    *_floors(one), f"{one['temporaries_mb']:.1f}", *last,
                )  # fmt: skip
        console.print(table)
    if "operators" in found:
        table = Table("operators", "contractions", "MB", "s to build", "of the processor", "floor",
                      "s to compile, forward", "and backward", "program KiB")  # fmt: skip
        for name, of in found["operators"].items():
            labels = ("build", "build_processor", "floor", "forward", "forward + backward")
            seconds = (of[label] for label in labels)
            table.add_row(
                name, str(of["contractions"]), f"{of['mb']:.1f}", *(f"{s:.2f}" for s in seconds),
                f"{of['forward + backward, program_bytes'] / 1024:.0f}",
            )  # fmt: skip
        console.print(table)
