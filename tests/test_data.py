"""`mpisign data`: fetched from a server of the tests' own, checked, unpacked; and what lies at a path."""

import functools
import hashlib
import http.server
import io
import lzma
import shlex
import tarfile
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from mpisign import config
from mpisign.bits.rng import Streams
from mpisign.cli import cli
from mpisign.cli.inspect import recognise, show
from mpisign.errors import UsageError
from mpisign.parallel import memory
from mpisign.problems.data import datasets
from mpisign.problems.data.datasets import Dataset, File, digest_of_rows
from mpisign.problems.data.fetch import fetch
from mpisign.problems.data.partition import partition
from tests.test_images import records

ROWS = b"+1 1:0.5 3:1\n-1 2:0.25\n"


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as opened:
        for name in ("inner/one", "../two"):
            member = tarfile.TarInfo(name)
            member.size = 3
            opened.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "plain.txt").write_bytes(b"hello")
    (folder / "rows").write_bytes(ROWS)
    (folder / "archive.tar.gz").write_bytes(archive())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/", folder
        httpd.shutdown()


def known(monkeypatch, address, file, **more):
    monkeypatch.setitem(datasets.SETS, "mine", Dataset("a set", address, (file,), "problem.path={folder}", **more))


def sha(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_files_are_fetched_once_and_checked(server, monkeypatch, tmp_path):
    address, folder = server
    known(monkeypatch, address, File("plain.txt", sha(b"hello")))
    told = []
    fetch("mine", tmp_path / "here", "", told.append)
    assert (tmp_path / "here" / "plain.txt").read_bytes() == b"hello"
    assert f"--set problem.path={tmp_path / 'here'}" in told[-1]
    (folder / "plain.txt").unlink()  # it is not asked for again
    fetch("mine", tmp_path / "here", "", told.append)
    assert "there already" in told[-2]


def test_a_file_that_is_another_is_not_kept(server, monkeypatch, tmp_path):
    known(monkeypatch, server[0], File("plain.txt", sha(b"else")))
    ended = CliRunner().invoke(cli, ["data", "fetch", "mine", "--to", str(tmp_path / "here")])
    assert isinstance(ended.exception, UsageError)
    assert "not the file that belongs to this data set" in str(ended.exception)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("lines", [ROWS, ROWS.replace(b"\n", b" \r\n")])
def test_rows_are_known_however_lines_end(server, monkeypatch, tmp_path, lines):
    (server[1] / "rows").write_bytes(lines)
    (tmp_path / "own").write_bytes(ROWS)
    known(monkeypatch, server[0], File("rows", rows=digest_of_rows(tmp_path / "own")))
    fetch("mine", tmp_path / "here", "", print)
    (tmp_path / "here" / "rows").unlink()
    (server[1] / "rows").write_bytes(ROWS.replace(b"0.25", b"0.26"))
    with pytest.raises(UsageError, match="its rows are not those"):
        fetch("mine", tmp_path / "here", "", print)
    assert not (tmp_path / "here" / "rows").exists()


def test_archives_are_unpacked_and_nothing_lands_elsewhere(server, monkeypatch, tmp_path):
    known(monkeypatch, server[0], File("archive.tar.gz", sha(archive_at(server))), unpack=True)
    fetch("mine", tmp_path / "here", "", print)
    assert sorted(f.name for f in (tmp_path / "here").iterdir()) == ["archive.tar.gz", "one", "two"]
    assert not (tmp_path / "two").exists()


def test_what_is_there_stays_until_a_whole_file_takes_its_place(server, monkeypatch, tmp_path):
    (tmp_path / "own").write_bytes(ROWS)
    known(monkeypatch, "http://127.0.0.1:9/", File("rows", rows=digest_of_rows(tmp_path / "own")))
    here = tmp_path / "here"
    here.mkdir()
    (here / "rows").write_bytes(b"1 1:1\n-1 1:7\n")  # somebody's own
    told = []
    with pytest.raises(UsageError, match="can't be fetched"):
        fetch("mine", here, "", told.append)
    assert "not the file of this data set" in told[0]
    (server[1] / "rows").write_bytes(ROWS[:-9])
    with pytest.raises(UsageError, match=r"its rows are not those|can't be read as LIBSVM|two classes"):
        fetch("mine", here, server[0], print)
    assert (here / "rows").read_bytes() == b"1 1:1\n-1 1:7\n"
    (server[1] / "rows").write_bytes(ROWS)
    fetch("mine", here, server[0], print)
    assert (here / "rows").read_bytes() == ROWS
    assert [f.name for f in here.iterdir()] == ["rows"]


def test_links_are_replaced_and_not_followed(server, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    here = tmp_path / "here"
    here.mkdir()
    for name in ("archive.tar.gz", "one"):
        (here / name).symlink_to(tmp_path / "elsewhere")
    known(monkeypatch, server[0], File("archive.tar.gz", sha(archive_at(server))), unpack=True)
    fetch("mine", here, "", print)
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert (here / "one").read_bytes() == b"abc"
    assert not (here / "one").is_symlink()


def test_a_file_only_appears_under_its_name_once_it_was_checked(server, monkeypatch, tmp_path):
    (tmp_path / "own").write_bytes(ROWS)
    wanted, here = digest_of_rows(tmp_path / "own"), tmp_path / "here"
    seen = []

    def look(path):
        seen.append((path.name, (here / "rows").exists()))
        return digest_of_rows(path)

    monkeypatch.setattr("mpisign.problems.data.fetch.digest_of_rows", look)
    known(monkeypatch, server[0], File("rows", rows=wanted))
    fetch("mine", here, "", print)
    assert seen == [("rows", False)]
    assert (here / "rows").stat().st_mode & 0o777 == (tmp_path / "own").stat().st_mode & 0o777


def test_where_nothing_can_be_put_is_told(server, monkeypatch, tmp_path):
    known(monkeypatch, server[0], File("plain.txt", sha(b"hello")))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="can't make the folder"):
        fetch("mine", tmp_path / "file", "", print)
    (tmp_path / "here" / "plain.txt").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"can't write .*plain\.txt: Is a directory; move away"):
        fetch("mine", tmp_path / "here", "", print)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", denied)
    with pytest.raises(UsageError, match=r"can't write into .*Permission denied.*--to"):
        fetch("mine", tmp_path / "other", "", print)


def test_what_is_printed_is_what_a_shell_takes(server, monkeypatch, tmp_path):
    known(monkeypatch, server[0], File("plain.txt", sha(b"hello")))
    told = []
    fetch("mine", tmp_path / "a folder; of $mine", "", told.append)
    assert shlex.split(told[-1])[-1] == f"problem.path={tmp_path}/a folder; of $mine"
    folder = tmp_path / "cifar it's"
    folder.mkdir()
    for k in (2, 3):
        (folder / f"data_batch_{k}.bin").write_bytes(records(20, k).tobytes())
    show(folder, 3, 1, told.append, kind="iid", labels=4, alpha=0.3, min_rows=1)
    words = shlex.split(next(line for line in told if "problem cifar10;" in line).split("cifar10; ")[1])
    job = config.load(None, words[1::2])
    assert job.problem.arguments == {"path": str(folder), "test": ["data_batch_3"]}


def archive_at(server):
    return (server[1] / "archive.tar.gz").read_bytes()


def test_a_network_that_is_not_there_is_told(monkeypatch, tmp_path):
    known(monkeypatch, "http://127.0.0.1:9/", File("plain.txt", sha(b"")))
    with pytest.raises(UsageError, match=r"can't be fetched.*login node.*by hand"):
        fetch("mine", tmp_path, "", print)
    with pytest.raises(UsageError, match="known: a9a, cifar10"):
        fetch("imagenet", tmp_path, "", print)


def test_another_copy_can_be_named(server, monkeypatch, tmp_path):
    known(monkeypatch, "http://127.0.0.1:9/", File("plain.txt", sha(b"hello")))
    fetch("mine", tmp_path, server[0].rstrip("/"), print)


def test_every_known_set_has_checksums():
    for found in datasets.SETS.values():
        assert all(bool(f.checksum) != bool(f.rows) for f in found.files)
        assert found.base.endswith("/")


# Looking


def test_what_lies_at_a_path_is_recognised(tmp_path):
    (tmp_path / "rows").write_bytes(ROWS)
    (tmp_path / "text").write_text("To be, or not to be: that is the question. " * 20)
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["x"], f["y"] = np.zeros((9, 4)), np.arange(9) % 3
    (tmp_path / "cifar").mkdir()
    for k in (2, 3):
        (tmp_path / "cifar" / f"data_batch_{k}.bin.xz").write_bytes(lzma.compress(records(20, k).tobytes()))
    assert [recognise(tmp_path / name)[0] for name in ("rows", "text", "data.h5", "cifar")] == [
        "logistic", "text", "hdf5", "cifar10",
    ]  # fmt: skip
    told = []
    show(tmp_path / "cifar", 3, 1, told.append, kind="labels", labels=4, alpha=0.3, min_rows=1)
    assert 'problem.test=["data_batch_3"]' in told[0]
    assert "20 rows, inputs uint8 [3, 32, 32]" in told[1]
    show(tmp_path / "data.h5", 3, 1, told.append, kind="iid", labels=1, alpha=0.3, min_rows=1)
    with pytest.raises(UsageError, match="no IDX files"):
        recognise(tmp_path)
    with pytest.raises(UsageError, match="no file or folder"):
        recognise(tmp_path / "nowhere")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match="an empty file"):
        recognise(tmp_path / "empty")


def test_a_file_is_recognised_by_its_start_alone(tmp_path, monkeypatch):
    (tmp_path / "rows").write_text("1 " + " ".join(f"{k}:0.123456789" for k in range(1, 9000)) + "\n")
    (tmp_path / "text").write_text("1 and 2:3 and so on" * 9000)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert [recognise(tmp_path / name)[0] for name in ("rows", "text")] == ["logistic", "text"]


def test_what_cant_be_trained_on_is_told_by_show(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    (tmp_path / "rows").write_text("1 1:1\n1 2:1\n")
    (tmp_path / "wide").write_text("1 1:1\n2 2000000000:1\n")
    for name, words in (("rows", "two classes are needed"), ("wide", "GB are free")):
        ended = CliRunner().invoke(cli, ["data", "show", str(tmp_path / name), "--ranks", "1"])
        assert isinstance(ended.exception, UsageError)
        assert words in str(ended.exception)


def test_ranks_are_shown_the_rows_that_a_run_deals_them(tmp_path):
    labels = np.arange(60) % 3
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["x"], f["y"] = np.zeros((60, 4)), labels
    ended = CliRunner().invoke(cli, ["data", "show", str(tmp_path / "data.h5"), "--ranks", "2", "--kind", "dirichlet"])
    parts = partition("dirichlet", 60, labels, 2, Streams(1).draw("partition", 0).generator(), alpha=0.3)
    for rank, rows in enumerate(parts):
        counts = " ".join(map(str, np.bincount(labels[rows], minlength=3)))
        assert f"rank   {rank}: {len(rows):8} rows; of each class: {counts}\n" in ended.output
