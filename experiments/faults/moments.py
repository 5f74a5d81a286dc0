"""Kills and signals at random moments: what goes on is the run that nobody disturbed, to the bit.

One run is stopped again and again and always started by the same command, until it is finished;
then the next one begins, until there were so many moments.
"""

import shutil
import signal
import time
from pathlib import Path

from experiments.faults.row import SAME, Bench, Row
from experiments.faults.runs import (
    EVERY,
    Broken,
    Run,
    begun_with,
    finish,
    hold,
    line_of,
    made,
    newest,
    start_all,
)
from experiments.run.peers import GONE
from inf_former_jax.training.checkpoint import UNFINISHED

#: Seconds after which a scheduler kills what is left of a job that it asked to end.
_GRACE = 30.0


class Moments:
    """Random moments of one run: from its start on, while it trains, or while it saves.

    Args:
        number: the signal.

    Attributes:
        runs: how many came to their end.
        lost: the most updates that were done again.
        saving: how many moments were in a save.
    """

    def __init__(self, number: signal.Signals, bench: Bench):
        self._number, self._whole, self._pick = number, bench.whole, bench.pick
        self._root, self._moments, self._say = bench.root, bench.tries, bench.say
        self.runs, self.lost, self.saving = 0, 0, 0
        self.statuses: set[int] = set()
        self.told = ""

    @property
    def _out(self) -> Path:
        return self._root / f"{self._number.name}-{self._whole.processes}-{self.runs}"

    def stop(self) -> Row:
        """Stop runs at so many moments; every one comes to its end, as the undisturbed one did.

        Raises:
            Broken: a run says something else than it should, or computes something else.
        """
        over = True
        for moment in range(self._moments):
            over = self._stop_once(moment + 1)
        if not over:
            saved = newest(self._out)
            self._finish(self._start(), saved)
        fault = f"{self._name} at random moments, {self.saving} of them in a save"
        known = self.lost, self.told, sorted(self.statuses), SAME
        return Row(fault, self._whole.processes, self._moments, *known)

    def _saves(self) -> bool:
        """Whether a checkpoint is being written, or was when a kill came."""
        return any(self._out.glob(f"checkpoints/*{UNFINISHED}*"))

    @property
    def _name(self) -> str:
        return "kill -9" if self._number == signal.SIGKILL else self._number.name

    def _start(self) -> list[Run]:
        processes, options = self._whole.processes, self._whole.options
        return start_all(self._out, *options, processes=processes, cache=self._whole.cache)

    def _stop_once(self, moment: int) -> bool:
        """Start the run, and stop it at a moment; whether it came to its end."""
        out, saved = self._out, newest(self._out)
        runs = self._start()
        if self._number == signal.SIGTERM:
            for run in runs:
                run.until(run.listens)
        when = self._pick.choice(("start", "training", "saving"))
        self._wait(runs[0], when)
        saving = self._saves()
        killed = self._send(runs)
        before = made(out) if begun_with(runs[0].said) is not None else 0
        self._judge(runs, saved, killed)
        if over := runs[0].status() == 0:
            self._finish(runs, saved)
        else:
            self.saving += saving
            self._count(before - newest(out), killed)
            self.statuses |= {run.status() or 0 for run in runs}
            if "error: SIG" in runs[0].said:
                self.told = line_of(runs[0].said, "error: SIG")
        said = line_of(runs[0].said, "error:")
        self._say(f"{moment}: {self._name} ({when}): {[run.status() for run in runs]}: {said}")
        return over

    def _wait(self, run: Run, when: str) -> None:
        """Wait for a moment, or for the end of the run."""
        if when == "start":
            run.wait(self._pick.uniform(0, self._whole.seconds))
        elif when == "training":  # from its first line on, before the updates
            run.says("needs about")
            run.wait(self._pick.uniform(0, self._whole.training))
        else:
            run.says(" updates of ")  # what an earlier kill left of a save is gone then
            for later in reversed(range(self._pick.randint(1, 3))):
                run.until(self._saves)
                if later:
                    run.until(lambda: not self._saves())
            run.wait(self._pick.uniform(0, 0.03))

    def _send(self, runs: list[Run]) -> bool:
        """Send the signal, and wait for the end; whether a scheduler would have killed some.

        SIGTERM comes to all processes. kill -9 comes to one of them, and a moment later the
        scheduler kills the others, as `srun --kill-on-bad-exit` does.
        """
        if self._number == signal.SIGTERM:
            for run in runs:
                run.stop(self._number)
            end = time.monotonic() + _GRACE * len(runs)
            hanging = [run for run in runs if run.wait(max(0.0, end - time.monotonic())) is None]
        else:
            hanging = self._pick.sample(runs, len(runs))
            hanging[0].stop(signal.SIGKILL)
            if hanging[1:]:
                hanging[1].wait(self._pick.uniform(0, 1))
        for run in hanging:
            run.stop(signal.SIGKILL)
            run.wait()
        return self._number == signal.SIGTERM and bool(hanging)

    def _judge(self, runs: list[Run], saved: int, killed: bool) -> None:
        """Raise Broken if a run says or does something else than it should."""
        polite = self._number == signal.SIGTERM
        for run in runs:
            said, status = run.said, run.status()
            allowed = (0, 3) if polite else (0, -9)
            if len(runs) > 1:  # where one is gone, the others end too
                allowed += (GONE,)
            hold(status in allowed, f"status {status}: {said}")
            hold(not killed, f"SIGTERM did not end it: {said}")
            hold("Traceback" not in said, said)
        self._require_went_on(runs[0], saved)

    @staticmethod
    def _require_went_on(run: Run, saved: int) -> None:
        """Raise Broken if a run that came so far did not begin with the newest checkpoint."""
        begun = begun_with(run.said)
        if begun is not None and begun != saved:
            raise Broken(f"step {saved} was saved: {run.said}")

    def _count(self, lost: int, killed: bool) -> None:
        """Note how many updates are to be done again; Broken if those are too many.

        A kill may come while a checkpoint is written, beside the updates up to the next one, or
        while that one waits for it.
        """
        most = 0 if self._number == signal.SIGTERM and not killed else 2 * EVERY
        hold(lost <= most, f"{lost} updates lost, {most} at most")
        self.lost = max(self.lost, lost)

    def _finish(self, runs: list[Run], saved: int) -> None:
        """Let the run come to its end, and compare it with the undisturbed one."""
        for run in runs:
            finish(run)
        self._require_went_on(runs[0], saved)
        self._whole.require_same(self._out)
        shutil.rmtree(self._out)
        self.runs += 1


def stopped_at_moments(number: signal.Signals, bench: Bench) -> Row:
    """The row of a signal at random moments; errors as of `Moments.stop`."""
    return Moments(number, bench).stop()
