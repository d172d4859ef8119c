"""Paths in a job, written as for a shell: ~, $NAME and ${NAME} mean what they mean there, and $$ is one $."""

import os
import re
from pathlib import Path

from mpisign.errors import UsageError, choices, did_you_mean

PACKAGE = Path(__file__).parent
VARIABLE = r"\$\$|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}"  # as a shell has them, and $$ for a $


def literal(file: Path) -> str:
    """A path that run.file takes as it is, without fields to fill in, variables or a home."""
    return as_shell(str(file)).replace("{", "{{").replace("}", "}}")


def as_shell(path: str) -> str:
    """What shell_path() takes for this very path."""
    text = path.replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text


def shell_path(text: str, key: str) -> str:
    """A path in which ~, ~user, $NAME and ${NAME} at its start or inside mean what they mean to a shell; $$ is one $.

    Raises UsageError for a variable or user that there is not.
    """

    def value(match: re.Match) -> str:
        if match[0] == "$$":
            return "$"
        name = match[0].strip("${}")
        if name not in os.environ:
            raise UsageError(f"{key} = {text!r}: there is no variable {name} in the environment; a $ itself is $$")
        return os.environ[name]

    try:
        whole = Path(text).expanduser() if text.startswith("~") else text
    except RuntimeError as error:
        raise UsageError(f"{key} = {text!r}: whose home is that? A name that begins with ~ is ./~...") from error
    return re.sub(VARIABLE, value, str(whole))


def with_fields(text: str, key: str) -> str:
    """A path with {fields} as a shell would read it, these not yet filled in. Raises as shell_path does."""
    # ${NAME} is no field, and braces in what a variable holds are none either
    pieces = re.split(rf"({VARIABLE}|^~[^/{{]*)", text)
    for k, piece in enumerate(pieces):
        if piece.startswith(("$", "~")):
            pieces[k] = shell_path(piece, key).replace("{", "{{").replace("}", "}}")
    return "".join(pieces)


def jobs_folder() -> Path:
    """The jobs that come with mpisign: inside an installed package, beside it in the repository."""
    return next((path for path in (PACKAGE / "jobs", PACKAGE.parent / "jobs") if path.is_dir()), PACKAGE / "jobs")


def job_file(given: Path) -> Path:
    """The file of a job that is given by its path, or by its name among those that come with mpisign.

    A name is a path below their folder without .toml, as mnist_mlp or figures/c1. Raises UsageError, with the names,
    where there is no such file and no such job.
    """
    if given.is_file() or given.suffix or given.is_absolute():
        return given
    folder = jobs_folder()
    known = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.toml"))}
    if str(given) not in known:
        near = did_you_mean(str(given), known)
        raise UsageError(f"no job {str(given)!r}{near}: give the path of a TOML file, or one of: {choices(known)}")
    return known[str(given)]
