"""What a run prints while it goes on: a bar on a terminal, plain lines in a log, nothing on other ranks."""

import sys
import time
from contextlib import suppress

from mpisign.errors import printable
from mpisign.run import output

LINE_SECONDS = 5.0  # between plain lines, unless there is an evaluation to tell


class Silent:
    """Same calls, nothing printed."""

    def line(self, text: str = "") -> None: ...

    def update(self, step: int, loss: float, lr: float, evaluation: dict[str, float] | None = None) -> None: ...

    def close(self) -> None: ...


class Lines(Silent):
    """A line at each evaluation, or every few seconds."""

    def __init__(self, steps: int):
        self.steps, self.last = steps, time.monotonic()
        self.begin: tuple[int, float] | None = None  # the first step told of, and when: a run may go on in its middle

    def line(self, text=""):
        output.say(printable(text))

    def update(self, step, loss, lr, evaluation=None):
        now = time.monotonic()
        if evaluation is None and now - self.last < LINE_SECONDS:
            return
        self.begin, self.last = self.begin or (step, now), now
        shown = f"step {step:>{len(str(self.steps))}}/{self.steps}  loss {loss:<9.4g}"
        for name, value in (evaluation or {}).items():
            shown += f"  {name} {value:<8.5g}"
        output.say(f"{shown}  lr {lr:.2e}{self._pace(step, now)}")

    def _pace(self, step: int, now: float) -> str:
        """Steps per second since the first line, and the time left at that rate; "" until both can be told."""
        first, begin = self.begin or (step, now)
        if step == first or now == begin:
            return ""
        rate = (step - first) / (now - begin)
        left = f"  {duration((self.steps - step) / rate)} left" if step < self.steps else ""
        return f"  {rate:.{0 if rate >= 10 else 2}f} steps/s{left}"


class Bar(Lines):
    """A live bar on a terminal, with the lines of evaluations above it."""

    def __init__(self, steps: int):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # by the one rank that has a bar

        super().__init__(steps)
        steps_taken, figures = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}")
        self.bar = Progress(steps_taken, BarColumn(), figures, TimeRemainingColumn())
        self.task = self.bar.add_task("", total=steps)
        with suppress(OSError):
            self.bar.start()

    def line(self, text=""):
        with suppress(OSError):
            self.bar.console.print(printable(text), highlight=False, markup=False)

    def update(self, step, loss, lr, evaluation=None):
        said = "  ".join(f"{name} {value:.5g}" for name, value in (evaluation or {}).items())
        with suppress(OSError):
            self.bar.update(self.task, completed=step, description=f"loss {loss:.4g}")
        if said:
            self.line(f"step {step:>{len(str(self.steps))}}/{self.steps}  {said}  lr {lr:.2e}")

    def close(self):
        with suppress(OSError):
            self.bar.stop()


def duration(seconds: float) -> str:
    """A time as a reader wants it: 42 s, 7 min, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def make(root: bool, steps: int, launched: bool) -> Silent:
    """The progress for this rank and this output. launched: by an mpirun, some of which only feign a terminal."""
    if not root:
        return Silent()
    return Bar(steps) if sys.stdout.isatty() and not launched else Lines(steps)
