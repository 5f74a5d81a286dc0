"""What harms a file, and how a run after it is judged."""

import random
from types import SimpleNamespace

import pytest

from experiments.faults import damage
from experiments.faults.row import Bench
from experiments.faults.runs import Broken


def test_a_flip_changes_one_bit_a_cut_shortens_and_a_file_is_deleted(tmp_path):
    path, raw = tmp_path / "file", bytes(range(200))
    path.write_bytes(raw)
    damage.flip(path, random.Random(1))
    changed = int.from_bytes(path.read_bytes()) ^ int.from_bytes(raw)
    assert changed.bit_count() == 1 and path.stat().st_size == 200
    path.write_bytes(raw)
    damage.cut(path, random.Random(1))
    assert path.stat().st_size < 200 and raw.startswith(path.read_bytes())
    damage.delete(path, random.Random(1))
    assert not path.exists()


def judged(root, begun, said):
    """The row of a deleted file of a run that then goes on in this way."""
    for step in (20, 30):
        folder = root / f"stopped/checkpoints/{step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text("content")
    whole = SimpleNamespace(goes_on=lambda out: (begun, said))
    return damage.damaged("deleted", damage.delete, Bench(root, whole, 1, random.Random(0)))


def test_a_damaged_checkpoint_costs_the_updates_since_the_one_before(tmp_path):
    said = "checkpoint of step 30 is damaged (checksum)\nmore"
    row = judged(tmp_path, 20, said)
    assert (row.lost, row.told) == (10, "checkpoint of step 30 is damaged (checksum)")


def test_a_file_that_nobody_reads_costs_nothing(tmp_path):
    row = judged(tmp_path, 30, "")
    assert row.lost == 0 and "1 times no run reads the file" in row.then


@pytest.mark.parametrize(
    ("begun", "said"), [(20, ""), (30, "checkpoint of step 30 is damaged (checksum)")]
)
def test_what_is_lost_without_a_word_is_broken(tmp_path, begun, said):
    with pytest.raises(Broken, match=rf"try 1: checkpoints/30/file: goes on after {begun} of 30"):
        judged(tmp_path, begun, said)
