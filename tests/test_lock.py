"""Locks: what lies in their place, file systems that have none, and what doctor says of both."""

import errno
import fcntl
import os

import h5py
import pytest

from mpisign.cli import doctor
from mpisign.errors import UsageError
from mpisign.storage import lock
from mpisign.storage.lock import Lock
from mpisign.storage.writer import aside_of, probe, write_aside


@pytest.fixture
def lockless(monkeypatch):
    """A file system as NFS without its lock manager: flock says ENOLCK."""

    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    monkeypatch.setattr(fcntl, "flock", flock)
    lock._gives_locks.cache_clear()
    yield
    lock._gives_locks.cache_clear()


def test_a_file_system_without_locks_is_told_of(lockless, tmp_path):
    taken = Lock(tmp_path / "r.h5")
    assert "HDF5_USE_FILE_LOCKING=FALSE" in taken.note
    assert not lock.held(tmp_path / "r.h5")
    taken.release()
    assert lock.hdf5(tmp_path / "r.h5") == {"locking": False}
    assert probe(tmp_path / "p.h5") == "swmr"
    (tmp_path / "p.h5").unlink()
    assert [f.state for f in doctor._folder(tmp_path)] == ["ok", "note"]
    assert not list(tmp_path.iterdir())


def test_one_with_locks_is_used_as_ever(tmp_path, monkeypatch):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    taken = Lock(tmp_path / "r.h5")
    assert taken.note == ""
    assert lock.hdf5(tmp_path / "r.h5") == {}
    with pytest.raises(UsageError, match=r"being written by process"):
        Lock(tmp_path / "r.h5")
    taken.release()


def test_a_link_in_a_locks_place_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    place = tmp_path / ".r.h5.lock"
    for put in (place.symlink_to, place.hardlink_to):
        put(precious)
        with pytest.raises((UsageError, OSError)):
            Lock(tmp_path / "r.h5")
        assert not lock.held(tmp_path / "r.h5")
        place.unlink()
    os.mkfifo(place)
    assert not lock.held(tmp_path / "r.h5"), "and nothing is waited for"
    with pytest.raises(UsageError, match="no lock of mpisign"):
        Lock(tmp_path / "r.h5")
    assert precious.read_text() == "mine"


def test_names_aside_can_not_be_foreseen_and_links_there_not_followed(tmp_path, monkeypatch):
    path, precious = tmp_path / "r.h5", tmp_path / "precious"
    precious.write_text("mine")
    assert aside_of(path) != aside_of(path)
    known = tmp_path / ".r.h5.1-x.tmp"
    monkeypatch.setattr("mpisign.storage.writer.aside_of", lambda _: known)
    known.symlink_to(precious)
    with pytest.raises(OSError):
        write_aside(path, lambda file: file.create_dataset("x", data=1))
    assert precious.read_text() == "mine"
    write_aside(path, lambda file: file.create_dataset("x", data=1))
    with h5py.File(path) as file:
        assert file["x"][()] == 1


def test_the_doctor_makes_nothing(tmp_path):
    (found,) = doctor._folder(tmp_path / "runs" / "deep")
    assert (found.state, "not there yet" in found.text) == ("ok", True)
    assert not list(tmp_path.iterdir())


def test_the_doctor_names_what_dead_jobs_left(tmp_path):
    import mmap

    dead, used, young, other = (tmp_path / f"mpich_shm_{k}" for k in ("dead", "used", "young", "other"))
    for path in (dead, used, young):
        path.write_bytes(b"x" * 8192)
        os.utime(path, (0, 0))
    os.utime(young)
    other.symlink_to(dead)
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 8192):
        assert doctor._left_behind(tmp_path) == {str(dead): 8192}
    facts = [{"host": "h", "shm": 1 << 40, "left": {str(dead): 8192}, "removed": [str(dead)], "parts": {}}]
    assert f"rm {dead}" in str(doctor._memory(facts)[1])


def test_the_doctor_gives_a_pattern_only_where_it_fits_nothing_that_is_used(tmp_path):
    dead = [tmp_path / f"mpich_shm_{k}" for k in range(3)]
    for path in (*dead, tmp_path / "psm2_shm.1", tmp_path / "other"):
        path.touch()
    left = [str(path) for path in (*dead, tmp_path / "psm2_shm.1")]
    assert doctor._words(left, tmp_path) == [f"{tmp_path}/mpich_shm_*", f"{tmp_path}/psm2_shm.1"]
    assert doctor._words(left[1:], tmp_path) == left[1:]  # the first is in use
