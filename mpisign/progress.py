"""What a run prints while it goes on: a bar on a terminal, plain lines in a log, nothing on other ranks."""

import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mpisign.words import printable

LINE_SECONDS = 5.0  # between plain lines, unless there is an evaluation to tell


class Silent:
    """Same calls, nothing printed."""

    def line(self, text: str = "") -> None: ...

    def update(self, step: int, loss: float, lr: float, evaluation: dict[str, float] | None = None) -> None: ...

    def close(self) -> None: ...


class Lines(Silent):
    """A line at each evaluation, or every few seconds."""

    def __init__(self, steps: int):
        self.steps, self.start, self.last = steps, time.monotonic(), time.monotonic()
        self.first = None  # the step at which the first line is written: a run may go on in its middle

    def line(self, text=""):
        print(printable(text), flush=True)

    def update(self, step, loss, lr, evaluation=None):
        now = time.monotonic()
        if evaluation is None and now - self.last < LINE_SECONDS:
            return
        self.first = step if self.first is None else self.first
        self.last = now
        rate = (step - self.first) / max(now - self.start, 1e-9)
        shown = f"step {step:>{len(str(self.steps))}}/{self.steps}  loss {loss:<9.4g}"
        for name, value in (evaluation or {}).items():
            shown += f"  {name} {value:<8.5g}"
        print(f"{shown}  lr {lr:.2e}  {rate:.0f} steps/s", flush=True)


class Bar(Lines):
    """A live bar on a terminal, with the lines of evaluations above it."""

    def __init__(self, steps: int):
        super().__init__(steps)
        self.bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task("", total=steps)
        self.bar.start()

    def line(self, text=""):
        self.bar.console.print(printable(text), highlight=False, markup=False)

    def update(self, step, loss, lr, evaluation=None):
        said = "  ".join(f"{name} {value:.5g}" for name, value in (evaluation or {}).items())
        self.bar.update(self.task, completed=step, description=f"loss {loss:.4g}")
        if said:
            self.line(f"step {step:>{len(str(self.steps))}}/{self.steps}  {said}  lr {lr:.2e}")

    def close(self):
        self.bar.stop()


def make(root: bool, steps: int, launched: bool) -> Silent:
    """The progress for this rank and this output. launched: by an mpirun, some of which only feign a terminal."""
    if not root:
        return Silent()
    return Bar(steps) if sys.stdout.isatty() and not launched else Lines(steps)
