"""`mpisign data fetch`: files from the network, checked; for a machine that has one, such as a login node.

Whatever is fetched or unpacked lies in a folder of its own, with a name that nobody foresees, until it was found whole;
then it takes its place, and that of what was there under its name.
"""

import os
import shlex
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

from mpisign.errors import StorageError, UsageError, choices, did_you_mean
from mpisign.problems.data.datasets import SETS, Dataset, File, Say, digest_of_rows


def fetch(name: str, folder: Path, base: str, say: Say) -> None:
    """Puts a data set into a folder; what is there already and whole is left alone.

    base: another folder on the network with the same files, "" for the set's own. Raises UsageError for unknown names,
    networks that do not answer and files that are not what they should be.
    """
    if name not in SETS:
        raise UsageError(f"unknown data set {name!r}{did_you_mean(name, SETS)}; known: {choices(SETS)}")
    dataset = SETS[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't make the folder {folder}: {error.strerror}; say another with --to") from error
    for file in dataset.files:
        get(dataset, file, folder, base or dataset.base, say)
    settings = [setting.format(folder=folder) for setting in dataset.settings.split()]
    say(f"use it with: {' '.join(f'--set {shlex.quote(setting)}' for setting in settings)}")


def get(dataset: Dataset, file: File, folder: Path, base: str, say: Say) -> None:
    """Fetches one file of a set; it takes its name only once it is found intact."""
    target = folder / file.name
    present = target.is_file() and _is_intact(target, file)
    if not present:
        if target.exists():
            say(f"{target}: there, but not the file of this data set: it is fetched anew")
        with _aside(folder) as aside:
            fresh = _download(urljoin(base if base.endswith("/") else base + "/", file.name), file, aside, folder)
            _place(fresh, target)
    say(f"{target}: {'there already, ' if present else ''}{target.stat().st_size:,} bytes, whole")
    if dataset.unpack:
        _unpack(target, folder, say)


def _is_intact(path: Path, file: File) -> bool:
    """Whether an existing file is the one of the data set."""
    import pooch

    try:
        return digest_of_rows(path) == file.rows if file.rows else pooch.hashes.hash_matches(path, file.checksum)
    except (UsageError, OSError):
        return False


def _download(url: str, file: File, aside: Path, folder: Path) -> Path:
    """Fetches a file into a folder aside and checks it. Raises UsageError; nothing is kept then."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # it tells what say() tells
    try:
        path = Path(pooch.retrieve(url, file.checksum or None, fname=file.name, path=aside))
    except ValueError as error:
        if "hash" not in str(error):
            raise UsageError(f"{url}: no address of a file ({error}); see --from") from error
        raise UsageError(
            f"{url}: not the file that belongs to this data set: {error} Nothing was kept; try again, or another copy "
            "with --from"
        ) from error
    except Exception as error:  # those of requests, urllib3, ftplib and the system
        raise UsageError(
            # what requests says goes on and on
            f"{url}: can't be fetched ({type(error).__name__}: {str(error).split('(Caused by')[0].strip()[:120]}); run "
            "this where there is a network, such as a login node, name another copy with --from, or put "
            f"{file.name} into {folder} by hand"
        ) from error
    if file.rows:
        _check_rows(path, file.rows, url)
    return path


def _check_rows(path: Path, wanted: str, url: str) -> None:
    try:
        got = digest_of_rows(path)
    except UsageError as error:
        # by the name that it was to have, not by that of the moment
        raise UsageError(f"{url}: {str(error).replace(str(path), path.name)}; nothing was kept") from error
    if got != wanted:
        raise UsageError(
            f"{url}: its rows are not those of this data set: their SHA-256 is {got}, not {wanted}; nothing was kept"
        )


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A temporary folder in the target folder, removed at the end."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder)
    except OSError as error:
        raise UsageError(f"can't write into {folder}: {error.strerror}; say another folder with --to") from error
    with temporary as aside:
        yield Path(aside)


def _place(fresh: Path, target: Path) -> None:
    """Moves a file to its name, replacing whatever file or link had it."""
    try:
        fresh.chmod(0o666 & ~_umask())
        os.replace(fresh, target)
    except OSError as error:
        raise UsageError(f"can't write {target}: {error.strerror}; move away what is there") from error


def _umask() -> int:
    """The permission bits that this process removes from new files."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _unpack(archive: Path, folder: Path, say: Say) -> None:
    """The files of an archive, beside each other in the folder; each is written aside first."""
    try:
        with tarfile.open(archive) as tar, _aside(folder) as aside:
            members = [m for m in tar.getmembers() if m.isfile()]
            for member in members:
                # only the last part of a name counts: nothing is written elsewhere
                fresh = aside / Path(member.name).name
                with tar.extractfile(member) as source, fresh.open("wb") as out:
                    shutil.copyfileobj(source, out)
                _place(fresh, folder / fresh.name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UsageError(f"{archive}: no archive ({error}); remove it and fetch it anew") from error
    except OSError as error:
        raise StorageError(f"can't unpack {archive} into {folder}: {error.strerror}") from error
    say(f"{folder}: {len(members)} files unpacked")
