"""Deliberate faults: each is patched into a copy of the package, where tests of the short run must find it.

python -m tests.faults               all of them; a markdown table, and exit code 1 if one was not found
python -m tests.faults tie coin      those whose name has these words in it

Where tests are thinned out, this shows that no kind of check went with them. A fault is a piece of text and what takes
its place. The text must stand in exactly one place of the package, in whatever file; else the script ends at once.
All tests named here must first pass on an unchanged copy.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("mpisign", "tests", "jobs", "analysis", "slurm", "pyproject.toml", "README.md")
SECONDS = 300  # for the tests of one fault
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Fault:
    """What is written in place of a text of the package, and what must find it.

    tests: arguments of pytest. ranks: they run under mpirun on so many; 0 for the serial ones.
    """

    name: str
    text: str
    instead: str
    tests: tuple[str, ...]
    ranks: int = 0


def reference(words: str) -> tuple[str, ...]:
    return "tests/test_reference.py", "-k", words


def exchanges(words: str) -> tuple[str, ...]:
    return "tests/parallel/test_exchange.py", "-k", words


FAULTS = [
    Fault("server feedback: a wrong factor on signs", "self.factor or 1 / n", "self.factor or 0.5 / n",
          reference("trajectory and sto-signsgd")),
    Fault("server feedback: half the decision is kept", "bits.add_signed(p, out[:, words], -scales[span.segment])",
          "bits.add_signed(p, out[:, words], -0.5 * scales[span.segment])", reference("trajectory and dist-ef")),
    Fault("refresh: radii are shared a step late", "step.age % self.refresh == 0",
          "step.age % (self.refresh + (self.refresh > 1)) == 0", reference("trajectory and sto-signsgd")),
    Fault("one direction: each voter draws its own", 'step.streams.draw("direction", step.t))',
          'step.draw("direction"))', ("tests/test_directions.py", "-k", "along_one_direction")),
    Fault("one block: another one's signs are sent", "words[self._turn(step) ::",
          "words[(self._turn(step) + 1) % self.blocks ::", reference("given_v and absignsgd")),
    Fault("silence: those who are silent speak", "1 - 2 * self.silence)", "2 * self.silence - 1)",
          reference("given_v and ternary")),
    Fault("tie coin: not negated at the next step", 'self.streams.draw if rule == "random" else',
          'self.streams.draw if rule == "random" or stream == "tie" else', reference("rules and signum and random")),
    Fault("zero coin: not negated at the next step", 'self.streams.draw if rule == "random" else',
          'self.streams.draw if rule == "random" or stream == "zero" else', reference("rules and signum and random")),
    Fault("tile order: sums of the ranks in order of ranks", "return np.concatenate(parts)", "return gathered",
          exchanges("sums_of_tiles"), ranks=3),
    Fault("tile order: sums added backwards", "np.add.at(sums, self.all_tiles[2], tile_sums)",
          "np.add.at(sums, self.all_tiles[2][::-1], tile_sums[::-1])", ("tests/test_layout.py",)),
    Fault("Lion: beta1 in place of beta2", "bits.blend(m, g, self.beta2, 1 - self.beta2)",
          "bits.blend(m, g, self.beta1, 1 - self.beta1)", reference("trajectory and dlion")),
    Fault("sharded drops the last word", "counts, places = self._up_parts[c]",
          "counts, places = self._up_parts[c]\n        self._out[c][..., -1:] = 0",
          exchanges("sharded-512-signum-1"), ranks=3),
    Fault("allgather drops the last word", "if self.up.varies:\n            self._gather_entries(c)\n",
          "if self.up.varies:\n            self._gather_entries(c)\n        self._in[c][..., -1:] = 0\n",
          exchanges("allgather-512-signum-1"), ranks=2),
    Fault("allreduce drops the last word", "bits.spread(plane, self.votes, fields)",
          "plane[..., -1:] = 0\n            bits.spread(plane, self.votes, fields)",
          exchanges("allreduce-512-signum-1"), ranks=3),
    Fault("hierarchical drops the last word", "self._raise(DECIDED, c)\n",
          "self.decided[c][..., -1:] = 0\n        self._raise(DECIDED, c)\n",
          exchanges("hierarchical-512-signum-1"), ranks=5),
    Fault("a checkpoint without momentum", '{name}/{voter}", array, name in of.scratch',
          '{name}/{voter}", array, name in (*of.scratch, "m")',
          reference("saved_states and (signum or lion)")),
    Fault("bytes: the formula counts a rank too many", "return (s.n - 1) * s.message(s.up),",
          "return s.n * s.message(s.up),", ("tests/test_costs.py", "-k", "sharded")),
    Fault("bytes: what stays with the rank is counted as sent", "for buffer in self._out) - kept",
          "for buffer in self._out)", exchanges("sharded-512-signum-1"), ranks=2),
    Fault("GPU kernel: a residual of the wrong sign", "sent = tl.where(of_words(bits) == 1, -scale, scale)",
          "sent = tl.where(of_words(bits) == 1, scale, -scale)",
          ("tests/test_device.py", "-k", "gpus_kernels and dist-ef")),
    Fault("voters asked at once: the noise of the step after", 'self.streams.draw("noise", self._t, 0)',
          'self.streams.draw("noise", self._t + 1, 0)', ("tests/test_batched.py", "-k", "quadratic and signum-mv")),
]  # fmt: skip


def place_of(text: str, package: Path) -> Path:
    """The file in which a text stands, once; ends the script where it is not there, or elsewhere too."""
    places = {file: file.read_text().count(text) for file in sorted(package.rglob("*.py"))}
    places = {file: count for file, count in places.items() if count}
    if list(places.values()) != [1]:
        shown = {str(file.relative_to(package)): count for file, count in places.items()}
        sys.exit(f"{text!r} must stand in one place of the package; it stands in: {shown or 'none'}")
    return next(iter(places))


def failed(tests: tuple[str, ...], ranks: int, folder: Path) -> tuple[list[str], str]:
    """The names of the tests that failed in a copy of the repository, and all output; "no end" if they ran too long."""
    serial = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line", *tests]
    parallel = [sys.executable, "tests/run_parallel.py", "-n", str(ranks), *tests]
    process = subprocess.Popen(
        parallel if ranks else serial, cwd=folder, env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return ["no end"], process.communicate()[0]
    names = re.findall(r"^(?:FAILED|ERROR) \S*?(\w+\.py)(?:::(\w+))?", output, re.MULTILINE)
    named = list(dict.fromkeys(f"{file}::{name}" for file, name in names))
    if process.returncode and not named:
        sys.exit(f"{tests} could not run:\n{output[-4000:]}")
    return named, output


def copy_to(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            # compiled kernels come along; they know their source by its time of change
            shutil.copytree(source, folder / name)
        elif source.exists():
            shutil.copy2(source, folder / name)


def find(fault: Fault, folder: Path) -> tuple[str, list[str], float]:
    """Where the fault was put, the tests that found it, and their seconds; the file is as it was afterwards."""
    file = place_of(fault.text, folder / "mpisign")
    shutil.copy2(file, original := file.with_suffix(".original"))
    start = time.monotonic()
    try:
        file.write_text(file.read_text().replace(fault.text, fault.instead))
        names, _ = failed(fault.tests, fault.ranks, folder)
    finally:
        shutil.move(original, file)
    return str(file.relative_to(folder)), names, time.monotonic() - start


def main(words: list[str]) -> int:
    chosen = [fault for fault in FAULTS if all(word in fault.name for word in words)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_to(folder)
        for fault in chosen:
            place_of(fault.text, folder / "mpisign")
        for tests, ranks in dict.fromkeys((fault.tests, fault.ranks) for fault in chosen):
            names, output = failed(tests, ranks, folder)
            if names:
                sys.exit(f"fails without a fault: {', '.join(names)}\n{output[-4000:]}")
        print("| fault | where | found by | seconds |\n|---|---|---|---|", flush=True)
        missed = 0
        for fault in chosen:
            where, names, seconds = find(fault, folder)
            missed += not names
            ranks = f" (n = {fault.ranks})" if fault.ranks else ""
            print(f"| {fault.name} | {where} | {', '.join(names) or '**none**'}{ranks} | {seconds:.0f} |", flush=True)
    print(f"\n{len(chosen) - missed} of {len(chosen)} faults found")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
