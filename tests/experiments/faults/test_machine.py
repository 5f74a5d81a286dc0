"""What stands between a run and its folder, and how a full disk is judged."""

import stat
import subprocess
import sys

import pytest

from experiments.faults import machine
from experiments.faults.runs import Broken

FULL = "error: no space left on device; the same command goes on from the last good checkpoint\n"


def test_nobody_writes_in_a_read_only_folder_and_everybody_afterwards(tmp_path):
    """Not even root, who has lost the right to pass over permissions."""
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner/file"
    path.write_text("content")
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path, path.parent, path)]

    def write():
        command = *machine.without_override(), sys.executable, "-c", f"open({str(path)!r}, 'w')"
        return subprocess.run(command, capture_output=True).returncode

    before = machine.contents(tmp_path)
    with machine.read_only(tmp_path):
        assert write() != 0
    assert machine.contents(tmp_path) == before
    assert [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path, path.parent, path)] == modes
    assert write() == 0 and machine.contents(tmp_path) != before


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("Traceback (most recent call last):\n" + FULL, 4),
        (FULL, 1),
        (FULL, None),
        ("", 4),
        (FULL + FULL, 4),
    ],
)
def test_a_full_disk_that_is_not_told_in_a_line_is_broken(tmp_path, said, status):
    assert machine._of_full(FULL, 4, tmp_path) == (0, 0)
    with pytest.raises(Broken):
        machine._of_full(said, status, tmp_path)
