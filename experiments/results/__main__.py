"""README's tables from results/: one JSON a run, one command, checked by CI.

    python -m experiments.results [--check]

A table stands in README.md between `<!-- results: NAME -->` and `<!-- end -->`. With --check
nothing is written, and the exit status is 1 if README is not what results/ say.
"""

import sys

from experiments.results.render import ROOT, render


def main(argv: list[str] | None = None) -> None:
    """Write README's tables, or with --check compare them."""
    argv = sys.argv[1:] if argv is None else argv
    if argv not in ([], ["--check"]):
        print(f"error: options: found {' '.join(argv)}, accepted: --check", file=sys.stderr)
        raise SystemExit(2)
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = render(old)
    if argv and new != old:
        print("README.md: tables differ from results/; run python -m experiments.results")
        raise SystemExit(1)
    if not argv:
        readme.write_text(new)


if __name__ == "__main__":
    main()
