"""Which tests may be skipped: what is skipped without need is a claim that nobody checks."""

import os
import shutil


def expected(reason: str) -> bool:
    """Whether a test may be skipped for this reason on this machine.

    WordNet comes with Debian's package only. It may lack where there is no apt-get, or where
    .ci/run has tried in vain and says so. Published weights are large, and nobody has to have them.
    """
    if reason.startswith("smollm2: "):
        return not os.environ.get("SMOLLM2_WHEEL")
    installable = shutil.which("apt-get") and not os.environ.get("WITHOUT_WORDNET")
    return reason.startswith("wordnet: ") and not installable
