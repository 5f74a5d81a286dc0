"""Which tests may be skipped: what is skipped without need is a claim that nobody checks."""

import os
import shutil


def expected(reason: str) -> bool:
    """Whether a test may be skipped for this reason on this machine.

    WordNet and Chromium come with Debian's packages only. They may lack where there is no apt-get,
    or where .ci/run has tried in vain and says so. Published weights are large, and nobody has to
    have them.
    """
    if reason.startswith("smollm2: "):
        return not os.environ.get("SMOLLM2_WHEEL")
    package = reason.partition(": ")[0]
    known = package in ("wordnet", "chromium")
    in_vain = bool(os.environ.get(f"WITHOUT_{package.upper()}"))
    return known and (in_vain or not shutil.which("apt-get"))
