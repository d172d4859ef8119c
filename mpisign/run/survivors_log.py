"""A RunLog on probation, which goes on when ranks are lost: on a new root, with a run file begun by another."""

import math
import sys
from collections.abc import Iterable
from dataclasses import replace

from mpisign.engine.stepper import Stepper
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import World
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run.recording import METHOD, PER_RANK, RunLog
from mpisign.run.resume import COUNTED, Start, rows_until, so_far
from mpisign.storage.tentative import Remembering, Tentative


class SurvivorsLog(RunLog):
    """Holds back what work in progress tells, on all ranks, until it is released."""

    def open(self, start: Start) -> None:
        super().open(start)
        self.writer = Tentative(self.writer if self.ranks.root else Remembering())

    def progress(self) -> dict[str, object]:
        gone = [voter for voter in range(self.voters) if voter not in self.world.voters]
        return super().progress() | ({"lost": gone} if gone else {})

    def note(self, text: str) -> None:
        """Tells at once what only this rank knows."""
        print(f"mpisign: {text}", file=sys.stderr, flush=True)

    def mark(self) -> None:
        """Notes what take_back() goes back to."""
        self._mark = dict(self.rows), self.best, self.kept, self.kept_step, self.counted, replace(self.world.cost)

    def take_back(self) -> None:
        """Forgets what was told since mark(); bytes that were sent and gradients that were taken still count."""
        rows, self.best, self.kept, self.kept_step, self.counted, cost = self._mark
        self.rows, self.world.cost = dict(rows), replace(cost)
        self.writer.drop()

    def release(self) -> None:
        """Writes what was told since mark()."""
        self.writer.release()

    def counts_of_living(self, world: World) -> dict[str, float]:
        """What the living had counted when all ranks did so at last. Collective over them."""
        own, _ = self.counted
        with world.uncounted():
            return world.sums(own) if own else {}

    def go_on(
        self, stepper: Stepper, ranks: Ranks, left: dict[str, float], tests: dict[int, DeviceLoader | None]
    ) -> None:
        """Goes on among the living.

        left: what counts_of_living() told; what the lost had counted stays counted. tests: the held-out rows of voters
        that this rank has adopted.
        """
        gone = [voter for voter in self.world.voters if voter not in stepper.world.voters]
        succeeds = ranks.root and not self.ranks.root
        self._count_on(left, stepper.world.n / self.world.n)
        adopted = [own for own in stepper.world.by_process if own not in self.world.by_process]
        tests = dict(zip(self.world.local, self.test, strict=True)) | tests
        self.test = [tests[voter] for voter in stepper.world.local]
        self.stepper, self.world, self.ranks, self.oracles = stepper, stepper.world, ranks, stepper.oracles
        self.everyone = self.world
        if gone:
            self.best = math.inf  # figures are of the held-out rows that are left
        if succeeds:
            self._succeed()
        text = _told(stepper.t + 1, gone, self.world.voters, adopted)
        self._add("segments", step=stepper.t, **self._segment())
        self.event("lost", stepper.t, text)
        self.release()
        self.mark()

    def _count_on(self, left: dict[str, float], share: float) -> None:
        """Keeps what was told so far, of which means over ranks are now over a share of those there were."""
        own, total = self.counted
        left = left | {name: total[name] for name in METHOD if name in total}
        for name, value in left.items():
            told = self.before[name] + total[name]
            self.before[name] = (told * share if name in PER_RANK else told) - value
        self.counted = own, left

    def _succeed(self) -> None:
        """Makes this rank the one that writes: a new file with the rows of the old one, and those not in it yet."""
        remembering = self.writer.writer
        missing = {table: remembering.remembered(table) for table in COUNTED}
        run = so_far(self.path)
        last = {table: rows[0]["step"] - 1 if rows else self.stepper.t for table, rows in missing.items()}
        tables = rows_until(run, last)
        self._make_writer(Start("resume", run=run), tables)
        self.writer = Tentative(self.writer)
        for table, rows in missing.items():
            for row in rows:
                self._add(table, **row)
        for table, key in (("events", "kind"), ("segments", "n")):
            there = {*zip(run[table]["step"].tolist(), run[table][key].tolist(), strict=True)}
            for row in remembering.remembered(table):
                if (row["step"], row[key]) not in there:
                    self.writer.append(table, **row)
        self.printer = self._make_printer()


def _told(step: int, gone: list[int], voters: tuple[int, ...], adopted: list[tuple[int, ...]]) -> str:
    """What became of the voters of ranks that were lost in a step. adopted: those that one rank runs from now on."""
    texts = []
    if gone:
        texts.append(f"voter(s) {_list(gone)} lost in step {step}; {len(voters)} vote on: {_list(voters)}")
    if adopted:
        ranks = ", and ".join(f"one rank runs voters {_list(own)}" for own in adopted)
        texts.append(f"rank(s) lost in step {step}; from now on {ranks}")
    return "; ".join(texts)


def _list(voters: Iterable[int]) -> str:
    return ", ".join(map(str, voters))
