"""The tables of the documentation, made from results/, which holds one JSON file a run.

    python -m experiments.results            write every table anew
    python -m experiments.results --check    write nothing; status 1 if a page differs

A table stands between `<!-- results: NAME -->` and `<!-- end -->` in README.md, in a page of docs/
or in the README.md of a folder of experiments/.
"""

import sys
from collections.abc import Sequence

from experiments.results.pages import ROOT, pages, render_all
from experiments.run import cli
from inf_former_jax.files import read_text, write_text


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: write the tables, or with --check name the pages that differ."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"]):
        return print(__doc__)
    with cli.refusals():
        if argv not in ([], ["--check"]):
            raise ValueError(f"options: found {' '.join(argv)}, accepted: --check")
        old = {page: read_text(page) for page in pages()}
        new = render_all(old)
    changed = [page for page in old if new[page] != old[page]]
    for page in changed:
        name = page.relative_to(ROOT)
        if argv:
            print(f"{name}: its tables differ from results/; run python -m experiments.results")
        else:
            write_text(page, new[page])
            print(f"{name}: written anew")
    if argv and changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
