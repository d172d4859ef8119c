"""`mpisign data fetch`: files from the network, checked; for a machine that has one, such as a login node."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urljoin

from mpisign.data.sets import SETS, File, Say, Set, digest_of_rows
from mpisign.errors import StorageError, UsageError, choices


def fetch(name: str, folder: Path, base: str, say: Say) -> None:
    """Puts a data set into a folder; what is there already and whole is left alone.

    base: another folder on the network with the same files, "" for the set's own. Raises UsageError for unknown names,
    networks that do not answer and files that are not what they should be.
    """
    if name not in SETS:
        raise UsageError(f"unknown data set {name!r}; known: {choices(SETS)}")
    found = SETS[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't make the folder {folder}: {error.strerror}; say another with --to") from error
    for file in found.files:
        get(found, file, folder, base or found.base, say)
    settings = found.settings.format(folder=folder).split()
    say(f"use it with: {' '.join(f'--set {setting}' for setting in settings)}")


def get(found: Set, file: File, folder: Path, base: str, say: Say) -> None:
    """One file of a set, which stays only if it is whole."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # it tells what say() tells
    url = urljoin(base if base.endswith("/") else base + "/", file.name)
    there = (folder / file.name).exists()
    try:
        path = Path(pooch.retrieve(url, file.checksum or None, fname=file.name, path=folder))
    except ValueError as error:
        if "hash" not in str(error):
            raise UsageError(f"{url}: no address of a file ({error}); see --from") from error
        raise UsageError(
            f"{url}: not the file that belongs to this data set: {error} Nothing was kept; try again, or another copy "
            "with --from"
        ) from error
    except OSError as error:  # those of requests among them
        raise UsageError(
            f"{url}: can't be fetched ({_short(error)}); run this where there is a network, such as a login node, name "
            f"another copy with --from, or put {file.name} into {folder} by hand"
        ) from error
    if file.rows:
        _check_rows(path, file.rows, url)
    say(f"{path}: {'there already, ' if there else ''}{path.stat().st_size:,} bytes, whole")
    if found.unpack:
        _unpack(path, folder, say)


def _short(error: OSError) -> str:
    """The kind of an error and the start of what it says: that of requests goes on and on."""
    text = str(error).split("(Caused by")[0].strip()
    return f"{type(error).__name__}: {text[:120]}"


def _check_rows(path: Path, wanted: str, url: str) -> None:
    try:
        got = digest_of_rows(path)
    except UsageError as error:
        path.unlink()
        raise UsageError(f"{url}: {error}; nothing was kept") from error
    if got != wanted:
        path.unlink()
        raise UsageError(
            f"{url}: its rows are not those of this data set: their SHA-256 is {got}, not {wanted}; nothing was kept"
        )


def _unpack(archive: Path, folder: Path, say: Say) -> None:
    """The files of an archive, beside each other in the folder; each is written aside and renamed."""
    try:
        with tarfile.open(archive) as opened:
            members = [m for m in opened.getmembers() if m.isfile()]
            for member in members:
                # only the last part of a name counts: nothing is written elsewhere
                target = folder / Path(member.name).name
                with (
                    opened.extractfile(member) as source,
                    tempfile.NamedTemporaryFile(
                        dir=folder, prefix=f".{target.name}.", suffix=".part", delete=False
                    ) as out,
                ):
                    shutil.copyfileobj(source, out)
                os.chmod(out.name, 0o644)
                os.replace(out.name, target)
    except tarfile.TarError as error:
        raise UsageError(f"{archive}: no archive ({error}); remove it and fetch it anew") from error
    except OSError as error:
        raise StorageError(f"can't unpack {archive} into {folder}: {error.strerror}") from error
    say(f"{folder}: {len(members)} files unpacked")
