"""Tables of `experiments.language_modeling distances`: gains by how far back a word last was."""

from experiments.run import gains
from experiments.run.tables import Result


def distances_table(results: list[Result]) -> str:
    """A table for each result and kind of words, with what each compared file was made by."""
    parts = []
    for result in results:
        for kind in result["gains"]:
            title = f"**{kind[0].upper()}{kind[1:]}, beside {result['reference']}**"
            parts.append(f"{title}\n\n{gains.table(result, kind)}\n")
        for source in result["sources"]:
            made = ", ".join(str(source[key]) for key in ("device", "commit", "date"))
            parts.append(f"* `{source['command']}` ({made})")
        parts.append("")
    return "\n".join(parts).rstrip("\n")
