"""What the scripts beside it share: how they take run files, what they say of bad ones, and their exit codes.

with script.reading(script.parser(__doc__, "mine.png")) as (runs, arguments): ...
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpisign.errors import MpisignError, printable
from mpisign.figures import selection
from mpisign.storage.reader import Run


def parser(doc: str, output: str = "") -> argparse.ArgumentParser:
    """The arguments that all scripts have: run files or folders of them, and, with a default, --output of a picture."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5", help="run files, or folders of them")
    if output:
        options.add_argument("--output", type=Path, default=Path(output), help=f"a .png, .pdf or .svg; {output}")
    return options


@contextmanager
def reading(options: argparse.ArgumentParser) -> Iterator[tuple[list[Run], argparse.Namespace]]:
    """The runs that were named, and all arguments; ends the script after the body of `with`.

    Files that can't be read, and runs that this script can't use, are named, here and in arguments.skipped; the exit
    code is then 2, though all else is done.
    """
    arguments = options.parse_args()
    try:
        runs, arguments.skipped = selection.read(arguments.runs)
        yield runs, arguments
    except MpisignError as error:
        print(f"{Path(sys.argv[0]).name}: {printable(error, lines=True)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    raise SystemExit(selection.SKIPPED if arguments.skipped else 0)
