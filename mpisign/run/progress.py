"""What a run prints while it goes on: a bar on a terminal, plain lines or JSON in a log, nothing on other ranks."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mpisign.errors import printable
from mpisign.run import output
from mpisign.storage.reader import summary_lines

LINE_SECONDS = 5.0  # between plain lines, unless there is an evaluation to tell
# events of the run file that are lines of a log for people; of others the run file alone tells
SAID = {
    "start": "started {}",
    "resume": "resumed {}",
    "lost": "{}",
    "ranks": "{}",
    "memory": "note: {}; the one before it is kept",
}


class Silent:
    """Same calls, nothing printed."""

    def line(self, text: str = "") -> None: ...

    def note(self, text: str) -> None:
        """A warning: what the user should know of."""

    def event(self, kind: str, step: int, text: str = "", exit_code: int | None = None) -> None:
        """A row of /events as it happens. exit_code: of an end of the run."""

    def figures(self, kind: str, figures: Mapping[str, object]) -> None:
        """Figures by name: the "summary", the "costs" of a dry run, or those of a whole "sweep"."""

    def point(self, number: int, count: int, name: str, figures: Mapping[str, object]) -> None:
        """A point of a sweep that has ended. number: how many have, of so many. figures: with its status."""

    def update(self, step: int, loss: float, lr: float, evaluation: dict[str, float] | None = None) -> None:
        """A step that was taken. evaluation: figures of its point, of which some may not be finite."""

    def close(self) -> None: ...


class Lines(Silent):
    """A line at each evaluation, or every few seconds."""

    def __init__(self, steps: int):
        self.steps, self.last = steps, time.monotonic()
        self.begin: tuple[int, float] | None = None  # the first step told of, and when: a run may go on in its middle

    def line(self, text=""):
        output.say(printable(text))

    def note(self, text):
        self.line(f"note: {text}")

    def event(self, kind, step, text="", exit_code=None):
        if text and kind in SAID:
            self.line(SAID[kind].format(text))

    def figures(self, kind, figures):
        output.say("\n".join(summary_lines(figures)))

    def point(self, number, count, name, figures):
        shown = {key: value for key, value in figures.items() if key in ("final_loss", "test_accuracy", "seconds")}
        status = printable(figures["status"]).split(":")[0]
        output.say(f"{number}/{count}  {name}: {status}  {'  '.join(f'{key} {value}' for key, value in shown.items())}")

    def update(self, step, loss, lr, evaluation=None):
        now = time.monotonic()
        if evaluation is None and now - self.last < LINE_SECONDS:
            return
        self.begin, self.last = self.begin or (step, now), now
        self.tell(step, loss, lr, evaluation or {})

    def tell(self, step: int, loss: float, lr: float, evaluation: dict[str, float]) -> None:
        """Prints what update() was given."""
        shown = f"step {step:>{len(str(self.steps))}}/{self.steps}  loss {loss:<9.4g}"
        for name, value in _finite(evaluation).items():
            shown += f"  {name} {value:<8.5g}"
        output.say(f"{shown}  lr {lr:.2e}{self._pace(step, self.last)}")

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
        said = "  ".join(f"{name} {value:.5g}" for name, value in _finite(evaluation or {}).items())
        with suppress(OSError):
            self.bar.update(self.task, completed=step, description=f"loss {loss:.4g}")
        if said:
            self.line(f"step {step:>{len(str(self.steps))}}/{self.steps}  {said}  lr {lr:.2e}")

    def close(self):
        with suppress(OSError):
            self.bar.stop()


class Json(Lines):
    """A JSON object per line: `time` in seconds since 1970, `event`, and what there is to tell of it.

    Numbers that are not finite, which JSON has not, are null.
    """

    def __init__(self, steps: int, seconds: Callable[[], float]):
        """seconds: since the first step of the run began, as the run file counts them."""
        super().__init__(steps)
        self.seconds = seconds

    def _say(self, event: str, **values: object) -> None:
        said = {name: value for name, value in values.items() if value is not None}
        known = dict.fromkeys(said) | _finite(said)
        output.say(json.dumps({"time": round(time.time(), 3), "event": event} | known))

    def line(self, text=""):
        self._say("message", text=text)

    def note(self, text):
        self._say("warning", text=text)

    def event(self, kind, step, text="", exit_code=None):
        self._say(kind, step=step, text=text or None, exit_code=exit_code)

    def figures(self, kind, figures):
        self._say(kind, **figures)

    def point(self, number, count, name, figures):
        self._say("point", number=number, points=count, name=name, **figures)

    def tell(self, step, loss, lr, evaluation):
        place = {"step": step, "steps": self.steps, "seconds": round(self.seconds(), 3)}
        self._say("evaluation" if evaluation else "step", **place, loss=float(loss), lr=float(lr), **evaluation)


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without the numbers that are not finite."""
    return {name: value for name, value in figures.items() if not isinstance(value, float) or math.isfinite(value)}


def duration(seconds: float) -> str:
    """A time as a reader wants it: 42 s, 7 min, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def make(root: bool, steps: int, launched: bool, as_json: bool, seconds: Callable[[], float]) -> Silent:
    """The progress for this rank and this output.

    launched: by an mpirun, some of which only feign a terminal. as_json: run.log. seconds: see Json.
    """
    if not root:
        return Silent()
    if as_json:
        return Json(steps, seconds)
    return Bar(steps) if sys.stdout.isatty() and not launched else Lines(steps)
