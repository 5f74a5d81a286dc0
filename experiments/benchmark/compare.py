"""Then and now: a stored result beside this one, and training steps of two commits in turns."""

import contextlib
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmark.processes import ROOT, working
from experiments.benchmark.steps import variants
from experiments.benchmark.timing import BenchmarkConfig, Rates, ratio
from experiments.results.benchmark import benchmark_rows
from inf_former_jax.files import read_json
from inf_former_jax.require import require


def stored(path: str) -> dict[str, Any]:
    """What a result of the benchmark found, by measure.

    Raises:
        ValueError: there is no such file, or it is no result.
    """
    accepted = "a commit, or a file that the benchmark wrote"
    found = read_json(path, accepted).get("found")
    try:
        rows = [*benchmark_rows(found)] if isinstance(found, dict) else []
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"compare: found {path} ({error}), accepted: {accepted}") from None
    require(bool(rows), "compare", f"{path} (without rows)", accepted)
    return dict(found or {})


def rates_of(found: Mapping[str, Any]) -> Rates:
    """The rates of the machine's probes, by whatever names a measure keeps them."""
    if "gflops" in found:
        return {"float32": 1e9 * found["gflops"], "bytes": 1e9 * found["gb_per_second"]}
    return found.get("rates", {})


def beside(then: Mapping[str, Any], now: Mapping[str, Any], measure: str) -> list[list[str]]:
    """A row for each variant that both results hold, and one for each probe.

    Its cells are seconds then and now, their ratio, and what the ratio would be if both machines
    multiplied matrices at one rate. For a probe they are operations, or bytes, a second.
    """
    known = [
        {re.sub(r" on \d+ devices", "", row.what): row.figures["seconds"] for row in found}
        for found in (benchmark_rows({measure: one[measure]}) for one in (then, now))
    ]
    rates = [rates_of(one[measure]) for one in (then, now)]
    shared = [kind for kind in rates[0] if kind in rates[1]]
    machine = rates[0][shared[0]] / rates[1][shared[0]] if shared else None
    rows = []
    for what in (what for what in known[0] if what in known[1]):
        old, new = (seconds[what] for seconds in known)
        evened = f"{old / new * machine:.2f}" if machine else ""
        rows.append([what, f"{old:.4g} s", f"{new:.4g} s", f"{old / new:.2f}", evened])
    for kind in shared:
        old, new = (one[kind] / 1e9 for one in rates)
        rows.append([f"probe: {kind}, G/s", f"{old:.0f}", f"{new:.0f}", f"{new / old:.2f}", ""])
    return rows


def commit_of(name: str) -> str:
    """The short hash of a commit of this checkout.

    Raises:
        ValueError: there is no such commit, or this is no git checkout.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--short=12", "--end-of-options", f"{name}^0")
    accepted = "a commit of this checkout, or a file NAME.json that the benchmark wrote"
    require(found is not None, "compare", name, accepted)
    return (found or b"").decode().strip()


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        archive, code = Path(folder, "code.tar"), Path(folder, "code")
        parts = "inf_former_jax", "experiments"
        made = _git("archive", f"--output={archive}", commit, *parts)
        require(made is not None, "compare", commit, f"a commit with {' and '.join(parts)}")
        shutil.unpack_archive(archive, code, filter="data")
        yield code


def pairs(cfg: BenchmarkConfig, commit: str) -> dict[str, Any]:
    """The training steps of a commit and of this checkout, in two processes that take turns.

    Rows that a commit cannot run say why.

    Raises:
        ValueError: it can run none.
    """
    with checkout(commit) as root:
        rows = [_pair(cfg, root, *variant) for variant in variants(cfg)]
    refused = [row["refused"] for row in rows if "refused" in row]
    require(len(refused) < len(rows), f"compare: {commit}", "; ".join(refused), "a training step")
    return {"commit": commit, "rows": rows}


def _pair(cfg: BenchmarkConfig, root: Path, preset: str, schedule: str) -> dict[str, Any]:
    row: dict[str, Any] = {"preset": preset, "schedule": schedule}
    arguments = preset, schedule, str(int(cfg.quick))
    try:
        with working(root, *arguments) as then, working(ROOT, *arguments) as now:
            # About half a second a turn. Who goes first changes from turn to turn.
            count = max(1, round(0.5 / min(then.run(1), now.run(1))))
            seconds: dict[Any, list[float]] = {then: [], now: []}
            for turn in range(3 if cfg.quick else cfg.repeats):
                for one in (then, now) if turn % 2 else (now, then):
                    seconds[one].append(one.run(count))
    except ValueError as error:
        return row | {"refused": str(error).replace(f"{root}: ", "")}
    return row | {
        "tokens": now.tokens,
        "devices": {"then": then.devices, "now": now.devices},
        "then": statistics.median(seconds[then]),
        "seconds": statistics.median(seconds[now]),
        "ratio": ratio(seconds[then], seconds[now]),
        "least_ratio": min(seconds[then]) / min(seconds[now]),
    }
