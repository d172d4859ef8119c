"""Compiled kernels: read from wherever they lie, kept where that can be done, never taken from others or damaged."""

import os
import pickle
import re

import pytest

from mpisign.bits import precompile
from mpisign.bits.cpu import cache
from tests.running import BIN, run


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two folders for kernels, the first of which is searched first, and nothing known of earlier ones."""
    found = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(cache, "folders", lambda: found)
    for name in ("used", "damaged"):
        monkeypatch.setattr(cache, name, set())
    for name in ("compiled", "lost"):
        monkeypatch.setattr(cache, name, [])
    return found


def make():
    def double(x):
        return 2 * x

    return cache.cached_njit(double)


def kernels(folder):
    return sorted(folder.glob("*.nbc"))


def test_a_kernel_is_kept_in_the_first_place_and_found_in_any(places):
    assert make()(21) == 42
    assert len(cache.compiled) == len(kernels(places[0])) == 1
    assert (kernels(places[0])[0].stat().st_mode & 0o777) == 0o644, "others may read what an installer compiled"
    places[0].rename(places[1])
    assert make()(21) == 42
    assert len(cache.compiled) == 1
    assert cache.used == {places[1]}
    assert not places[0].exists(), "nothing is written where nothing had to be compiled"


def test_where_nothing_can_be_kept_it_is_said(places):
    for place in places:
        place.write_text("no folder")
    assert make()(21) == 42
    assert cache.lost
    assert "NUMBA_CACHE_DIR" in precompile.state().remedy


@pytest.mark.parametrize("cut", [0, 1, 30, 100, -1])
def test_what_is_cut_is_compiled_anew(places, cut):
    make()(1)
    (file,) = kernels(places[0])
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    assert make()(21) == 42
    assert len(cache.compiled) == 2
    assert not cache.damaged, "it is whole again"
    assert make()(21) == 42
    assert len(cache.compiled) == 2


def test_a_flipped_bit_garbage_and_another_pickle(places):
    make()(1)
    (file,) = kernels(places[0])
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 4
    other = pickle.dumps(("not", "a", "kernel"))
    for content in (whole, os.urandom(5000), cache.MAGIC + cache.hashlib.sha256(other).digest() + other):
        before = len(cache.compiled)
        file.write_bytes(content)
        assert make()(21) == 42
        assert len(cache.compiled) == before + 1


def test_a_damaged_kernel_that_cant_be_replaced_is_named(places, monkeypatch):
    make()(1)
    (file,) = kernels(places[0])
    file.write_bytes(b"")
    monkeypatch.setattr(cache, "_write", lambda *_: False)
    make()(1)
    assert str(file) in precompile.state().remedy


class Bomb:
    def __reduce__(self):
        return os.mkdir, (f"{os.environ['BOMB']}/went-off",)


def test_what_others_could_have_put_there_is_not_even_opened(places, monkeypatch, tmp_path):
    monkeypatch.setenv("BOMB", str(tmp_path))
    make()(1)
    (file,) = kernels(places[0])
    payload = pickle.dumps(Bomb())
    bomb = cache.MAGIC + cache.hashlib.sha256(payload).digest() + payload
    file.write_bytes(bomb)
    for target, mode in ((places[0], 0o777), (file, 0o666)):
        target.chmod(mode)
        assert make()(21) == 42
        assert not (tmp_path / "went-off").exists()
        target.chmod(0o755 if target.is_dir() else 0o644)
        file.write_bytes(bomb)
    elsewhere = tmp_path / "bomb"
    elsewhere.write_bytes(bomb)
    file.unlink()
    file.symlink_to(elsewhere)
    assert make()(21) == 42
    assert not (tmp_path / "went-off").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_left_alone(places):
    places[0].mkdir()
    os.chown(places[0], 12345, 12345)
    assert make()(21) == 42
    assert not list(places[0].iterdir())
    assert kernels(places[1])


def test_looking_compiles_nothing(places):
    with cache.looking(), pytest.raises(cache.NotCompiledError):
        make()(1)
    assert not any(place.exists() for place in places)
    make()(1)
    with cache.looking():
        assert make()(21) == 42


def test_what_is_noted_as_complete_is_found_in_any_place(places):
    make()(1)
    assert not cache.is_complete("all-3")
    cache.note_complete("all-3")
    places[0].rename(places[1])
    assert cache.is_complete("all-3")
    assert not cache.is_complete("all-4")


def test_kernels_that_are_all_there_are_not_loaded_ahead(places, monkeypatch):
    called = []
    monkeypatch.setattr(precompile, "compile_ahead", called.append)
    for voters in (3, 3, 5):
        precompile.make_ready(voters)
    assert called == [3, 5]


def test_what_could_be_kept_nowhere_is_not_noted(places, monkeypatch):
    monkeypatch.setattr(cache, "lost", ["a kernel"])
    cache.note_complete("all-3")
    assert not cache.is_complete("all-3")


def test_kernels_of_other_sources_go(places):
    make()(1)
    old = places[0] / f"{kernels(places[0])[0].name.split('-')[0]}-0123456789-abc.nbc"
    old.touch()
    (places[0] / "moving.other-0123456789-abc.nbc").touch()
    kernels(places[0])[-1].rename(places[0] / "gone")
    for file in places[0].glob("test_kernel_cache*"):
        if file != old:
            file.unlink()
    make()(1)
    assert not old.exists()
    assert (places[0] / "moving.other-0123456789-abc.nbc").exists()


def test_places_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first, tree, own = cache.folders()
    assert (first.parent, tree) == (tmp_path, cache.IN_TREE)
    assert str(own).startswith(str(tmp_path / "home/.cache/mpisign"))

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", homeless)
    assert cache.folders() == [first, tree]


def test_compiling_ahead_says_where_the_kernels_are_and_ends_well():
    ended = run(BIN / "python", "-m", "mpisign.bits")
    assert ended.code == 0, ended.err
    assert re.fullmatch(r"kernels ready in [\d.]+ s, from /.*\n", ended.out)
