"""Kept files are right or say that they are not; files and words of others do nothing but what they may.

A seeded part of tests/damage.py by default, all of it where slow tests run.
"""

import csv
import io
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpisign.cli import batch
from mpisign.cli.batch import Request
from mpisign.errors import UsageError, printable
from mpisign.problems.hdf5 import Hdf5
from mpisign.storage import checkpoint, hdf5
from mpisign.storage.reader import Run, cell, load_parameters, read_all
from mpisign.storage.repair import repair
from mpisign.storage.writer import RunWriter
from tests import damage, forgeries
from tests.files import without_checksums
from tests.running import ROOT, mpisign, run

GOOD = {"message", "unchanged"}
# some of each kind
RUNS = ["config from a pipe", "steps by a link to a pipe", "loss a virtual dataset", "steps/loss complex",
        "all columns of 10^15 rows", "a step of 10^12", "n an array", "config nested without end"]  # fmt: skip
CHECKPOINTS = ["x from a pipe", "x by a link", "a step of 10^12", "rows of words", "arrays/x complex"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    forgeries.prepare(folder)
    return damage.make_files(folder)


def some(slow, few):
    """Few cases by default, all where slow tests run."""
    return [pytest.param(few, id="some"), pytest.param(slow, id="all", marks=pytest.mark.slow)]


# Damage


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", damage.READ)
@pytest.mark.parametrize("kind", ["flips", "cuts"])
@pytest.mark.parametrize("cases", some(range(damage.CASES), range(8)))
def test_damage_is_told_or_does_no_harm(files, name, kind, cases):
    counts, wrong = damage.damage(name, files[name], kind, cases)
    assert not wrong
    assert counts["message"] > 0
    assert counts.keys() <= GOOD


def test_every_byte_of_a_row_counts(files, tmp_path):
    file = shutil.copy(files["complete"], tmp_path / "r.h5")
    with h5py.File(file, "r+") as f:
        names = [f"{t}/{c}" for t in ("steps", "events") for c in f[t]]
    for name in names:
        shutil.copy(files["complete"], file)
        with h5py.File(file, "r+") as f:
            column = f[name][()]
            column.view(np.uint8).reshape(len(column), -1)[1, 0] ^= 1
            f[name][...] = column
        os.utime(file, (1.7e9, 1.7e9))
        with pytest.raises(UsageError, match=f"damaged: row 1 of /{name.split('/')[0]}: its checksum"):
            Run(file)


def test_a_damaged_row_is_left_out_by_repair_which_tells_so(files, tmp_path):
    file, saved = shutil.copy(files["complete"], tmp_path / "r.h5"), tmp_path / "saved.h5"
    whole = Run(file)
    with h5py.File(file, "r+") as f:
        f["steps/loss"][40] += 1
    with pytest.raises(UsageError, match="--output"):
        repair(file)
    told = repair(file, saved)
    assert told[0].startswith("lost: /steps: 1 row(s), the first at step 41: damaged")
    kept = np.arange(90) != 40
    np.testing.assert_array_equal(Run(saved)["steps"]["loss"], whole["steps"]["loss"][kept])
    assert "row(s)" in Run(saved).attributes["lost"]


def test_a_folder_with_a_damaged_job_is_read_but_for_it(files, tmp_path):
    shutil.copy(files["complete"], tmp_path / "good.h5")
    forgeries.forge(files["complete"], tmp_path / "bad.h5", forgeries.put("config", np.bytes_(b"[run\n")))
    runs, skipped = read_all([tmp_path])
    assert [r.path.name for r in runs] == ["good.h5"]
    assert len(skipped) == 1
    assert "bad.h5: damaged: /config" in skipped[0]


def test_a_run_goes_on_though_rows_after_its_checkpoint_are_lost(files, tmp_path):
    """As a power failure leaves it: rows whose columns did not all reach the disk."""
    file = tmp_path / "r.h5"
    shutil.copy(files["open"], file)
    shutil.copytree(checkpoint.folder(files["open"]), checkpoint.folder(file))
    with h5py.File(file, "r+", libver="latest") as f:
        for data in f["steps"].values():
            data.resize(len(data) + 3, axis=0)
    with pytest.raises(UsageError, match="damaged: row"):
        Run(file)
    damage.command("resume", "--max-time", 100, file)
    np.testing.assert_array_equal(Run(file)["steps"]["loss"], Run(files["complete"])["steps"]["loss"])


# Files of an older version, without checksums


def test_a_run_of_an_older_version_is_read_and_goes_on(files, tmp_path):
    file, whole = tmp_path / "r.h5", Run(files["complete"])
    shutil.copy(files["open"], file)
    shutil.copytree(checkpoint.folder(files["open"]), checkpoint.folder(file))
    without_checksums(file)
    before = Run(file)
    assert before["steps"]["loss"].tolist() == Run(files["open"])["steps"]["loss"].tolist()
    damage.command("resume", "--max-time", 100, file)
    after = Run(file)
    for name in ("loss", "flips", "bytes_up"):
        np.testing.assert_array_equal(after["steps"][name], whole["steps"][name])
    # rows are copied bit for bit, and have checksums from now on
    count = len(before["steps"]["step"])
    assert after["steps"]["seconds"][:count].tobytes() == before["steps"]["seconds"].tobytes()
    with h5py.File(file) as f:
        assert len(f["steps"][hdf5.CRC]) == 90


def test_what_an_older_version_did_not_write_is_not_known(files, tmp_path):
    tables = {t: Run(files["complete"])[t] for t in ("steps", "events")}
    tables["steps"] = {k: v for k, v in tables["steps"].items() if k not in ("agreement", "function_evaluations")}
    RunWriter(tmp_path / "r.h5", Run(files["complete"]).attributes, Run(files["complete"]).config_text, {},
             tables=tables).close()  # fmt: skip
    steps = Run(tmp_path / "r.h5")["steps"]
    assert len(steps["step"]) == 90
    assert np.isnan(steps["agreement"]).all()


def test_a_model_of_an_older_version_is_read_and_a_damaged_new_one_is_not(files, tmp_path):
    old, right = tmp_path / "old.model", load_parameters(files["model"])
    with h5py.File(old, "w") as f:
        f.attrs["filetype"] = "mpisign-model"
        for name, array in right.items():
            f.create_group("parameters")[name] = array
    assert load_parameters(old)["x"].tolist() == right["x"].tolist()
    with h5py.File(files["model"]) as f:
        assert f["parameters/x"][()].tolist() == right["x"].tolist()  # any HDF5 program reads it


# Files of others


@pytest.mark.timeout(900)
@pytest.mark.parametrize("names", some(None, RUNS))
def test_forged_run_files(files, names):
    found = damage.forged_runs(files, names)
    counts, wrong = damage.outcomes(found)
    assert not wrong
    assert len(found) >= (40 if names is None else len(RUNS))
    assert counts["message"] >= 3 * len(found)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("names", some(None, CHECKPOINTS))
def test_forged_checkpoints(files, names):
    found = damage.forged_checkpoints(files, names)
    counts, wrong = damage.outcomes(found)
    assert not wrong
    assert len(found) >= (40 if names is None else len(CHECKPOINTS))
    assert counts["message"] >= len(found)


def test_models_of_others(files, tmp_path):
    file = tmp_path / "m.model"
    for forge in (
        forgeries.external("parameters/x", (64,), "f4", str(files["open"].parent / "pipe")),
        forgeries.link("parameters/x", h5py.ExternalLink(str(files["open"].parent / "other.h5"), "/x")),
        forgeries.bomb("parameters/x", (10**15,), "f4"),
        forgeries.column("parameters/x", lambda v: v + 1j),
        forgeries.link("parameters", np.zeros(3)),
    ):
        with h5py.File(file, "w") as f:
            f.attrs["filetype"] = "mpisign-model"
            f["parameters/x"] = np.zeros(9, np.float32)
            forge(f)
        outcome, told = damage.apart(lambda: load_parameters(file))
        assert (outcome, str(file) in told) == ("message", True)


def test_what_is_no_file_is_refused_at_once(files, tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "pipe.h5")
    for path in (*tmp_path.iterdir(), "/dev/zero", "/dev/null", tmp_path / "nothing"):
        for words in (("show", path), ("resume", path), ("resume", files["open"], "--from", path), ("repair", path)):
            outcome, told = damage.apart(lambda words=words: damage.command(*words))
            assert (outcome, str(path) in told) == ("message", True), told
    assert len(read_all([tmp_path])[1]) == 3


def test_data_in_other_files_is_read_where_that_is_asked_for(tmp_path):
    with h5py.File(tmp_path / "rows.h5", "w") as f:
        f["x"], f["y"] = np.ones((9, 4), np.float32), np.arange(9) % 3
    layout = h5py.VirtualLayout((9, 4), "f4")
    layout[...] = h5py.VirtualSource(tmp_path / "rows.h5", "x", (9, 4))
    (tmp_path / "raw").write_bytes(np.ones((9, 4), np.float32).tobytes())
    for k, make in enumerate((
        lambda f: f.__setitem__("x", h5py.ExternalLink(tmp_path / "rows.h5", "/x")),
        lambda f: f.create_virtual_dataset("x", layout),
        lambda f: f.create_dataset("x", (9, 4), "f4", external=[(str(tmp_path / "raw"), 0, 144)]),
    )):  # fmt: skip
        file = tmp_path / f"{k}.h5"
        with h5py.File(file, "w") as f:
            f["y"] = np.arange(9) % 3
            make(f)
        with pytest.raises(UsageError, match=r"(not followed|not read); problem\.external=true"):
            Hdf5(str(file)).read()
        tables = Hdf5(str(file), external=True).read()
        assert tables.train.take(slice(0, 9))["inputs"].sum() == 36
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "p.h5", "w") as f:
        f["y"], f["x"] = np.arange(9), h5py.ExternalLink(tmp_path / "pipe", "/x")
    outcome, _ = damage.apart(lambda: Hdf5(str(tmp_path / "p.h5")).read())
    assert outcome == "message"
    with h5py.File(tmp_path / "bomb.h5", "w") as f:
        f.create_dataset("x", (10**14, 2), "f4", chunks=(64, 2))
        f.create_dataset("y", (10**14,), "i8", chunks=(64,))
    with pytest.raises(UsageError, match="GB are free"):
        Hdf5(str(tmp_path / "bomb.h5")).read()


# Words of others

WORDS = (
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "bell\x07", "back\b\b\b\bspace", "line\nmpisign: all is well",
    "return\rover", "\u202egnp.exe", "tab\there", "=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", " =1+1",
    "<script>alert(1)</script>", "{{ 7 * 7 }}", "$\\frac{", "a|b", "$(touch acted)", "`touch acted`; touch acted #",
    "x\ntouch acted\n", "[red]markup[/red]", "%s%n", "'\"; touch acted; '",
)  # fmt: skip
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def hostile(file, original, word):
    """A run file with a word wherever there is text."""
    shutil.copy(original, file)
    with h5py.File(file, "r+", libver="latest") as f:
        for name in ("algorithm", "problem", "definition", "exchange", "exchange_reason", "mpisign_version"):
            f.attrs[name] = np.bytes_(word.encode())
        f["segments/hosts"][0] = f["events/text"][0] = word.encode()
        for table in ("events", "segments"):
            del f[table][hdf5.CRC]
        quoted = '"' + "".join(c if c.isalnum() or c == " " else f"\\U{ord(c):08x}" for c in word) + '"'
        text = re.sub(r"(?m)^name = .*", lambda _: f"name = {quoted}", f["config"][()].decode())
        forgeries.replace(f, "config", np.bytes_(text.encode()))
    return file


def test_no_word_in_a_file_acts_where_it_is_shown(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, word in enumerate(WORDS):
        file = hostile(tmp_path / f"{k}.h5", files["complete"], word)
        shown = [damage.command("show", file), damage.command("show", "--config", file)]
        for table in ("events", "segments"):
            shown.append(damage.command("show", "--csv", table, file))
            rows = list(csv.reader(io.StringIO(shown[-1])))
            assert {len(row) for row in rows} == {len(rows[0])}
            texts = [value for row in rows for value in row if re.search("[a-z]", value)]
            assert not [t for t in texts if t.lstrip().startswith(("=", "+", "-", "@"))]
        assert not [text for text in shown if ACTING.search(text)]
        assert "mpisign: all is well" not in "\n".join(shown).splitlines()
    assert not (tmp_path / "acted").exists()


@pytest.mark.slow
def test_no_word_in_a_file_acts_in_a_report(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, word in enumerate(WORDS):
        hostile(tmp_path / f"{k}.h5", files["complete"], word)
    from mpisign.figures import report, tables

    runs = [Run(file) for file in tmp_path.glob("*.h5")]
    page = report.page(runs, [f"{word} is damaged" for word in WORDS], WORDS[14])
    assert "<script>" not in page
    assert "49" not in re.findall(r"<td>(.*?)</td>", page)
    assert tables.markdown([{"name": "a|b\nc", "value": 1}]).splitlines()[2] == r"| a\|b\nc | 1 |"
    assert not (tmp_path / "acted").exists()


def test_words_in_messages_do_not_act(tmp_path):
    (tmp_path / "\x1b[31m.h5").write_bytes(b"no")
    ended = mpisign("show", tmp_path / "\x1b[31m.h5")
    assert ended.code == 2
    assert "\\x1b[31m.h5" in ended.err
    assert "\x1b" not in ended.err


@pytest.mark.parametrize(
    ("value", "expected"),
    [("=1+1", "'=1+1"), ("-1.5", "-1.5"), (-1.5, -1.5), ("a\n=b", "a\\n=b"), ("plain", "plain"), ("-x", "'-x")],
)
def test_cells(value, expected):
    assert cell(value) == expected


def test_printable_text_stays_as_it_is():
    assert printable("größer, 大きい") == "größer, 大きい"
    assert printable("a\tb\n\x1b", lines=True) == "a\tb\n\\x1b"
    assert printable("\udcff") == "\\udcff"


# Batch scripts


def ran(script, folder):
    """Arguments that mpisign gets when bash runs a batch script in a folder; asserts that nothing else happens."""
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "srun").write_text('#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n')
    (bin_ / "scontrol").write_text("#!/bin/bash\n")
    (bin_ / "mpisign").write_text("#!/bin/bash\nprintf '%s\\0' \"$@\"\n")
    for program in bin_.iterdir():
        program.chmod(0o755)
    (folder / "s.sbatch").write_text(script)
    where = {"PATH": f"{bin_}:{os.environ['PATH']}", "MPISIGN": str(bin_ / "mpisign"), "SLURM_JOB_ID": "7"}
    ended = run("bash", folder / "s.sbatch", environment=where, cwd=folder)
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in folder.iterdir()) == ["bin", "s.sbatch"]
    return ended.out.split("\0")[:-1]


def test_no_word_acts_in_a_batch_script(tmp_path):
    for word in WORDS:
        job = Path(f"{word}/{word}.toml".replace("</", "<"))
        setting = f"run.file={word}"
        commands = {"job": {"job": job}, "directive": {"directives": (f"--comment={word}",)}, "time": {"time": word},
                    "setting": {"settings": (setting,)}}  # fmt: skip
        for what, how in commands.items():
            try:
                script = batch.script(Request(**how))
            except UsageError:
                continue
            assert what != "time"
            given = ran(script, tmp_path)
            if what == "job":
                assert given[5] == (f"./{job}" if str(job).startswith("-") else str(job))
            if what == "setting":
                assert given[-1] == setting.replace("\r", "\n")  # as Python reads the end of a line
            for line in script.splitlines():
                assert not line.startswith("#SBATCH") or re.fullmatch(r'#SBATCH --[a-z-]+(=([^\s"]+|"[^"\\]*"))?', line)


@pytest.mark.parametrize("time", ["30", "90:00", "12:00:00", "100:00:00", "2-12", "2-12:30", "2-12:30:59", "UNLIMITED"])
def test_limits_that_slurm_knows(time):
    assert f"#SBATCH --time={time}\n" in batch.script(Request(time=time))


@pytest.mark.parametrize("time", ["", "soon", "1h", "1:2:3:4", "00:61:00", "1-25", "-5", "1.5", "12:00\n", "٣٠", "1 2"])
def test_limits_that_slurm_does_not_know(time):
    with pytest.raises(UsageError, match="--time"):
        batch.script(Request(time=time))


@pytest.mark.parametrize(
    ("directive", "line"),
    [
        ("--account=mine", "--account=mine"),
        ("--exclusive", "--exclusive"),
        ("--exclusive=user", "--exclusive=user"),
        ("--constraint=a&b", '--constraint="a&b"'),
        ("--comment=two words # one", '--comment="two words # one"'),
        ("--dependency=afterok:12,afterany:3", "--dependency=afterok:12,afterany:3"),
    ],
)
def test_options_of_sbatch(directive, line):
    assert f"#SBATCH {line}\n" in batch.script(Request(directives=(directive,)))


@pytest.mark.parametrize(
    ("directive", "told"),
    [
        ("account=mine", "--OPTION=VALUE"),
        ("--acount=mine", "did you mean --account"),
        ("-A mine", "--OPTION=VALUE"),
        ("--account", "a value is missing"),
        ("--hold=now", "takes no value"),
        ("--time=5", "for --time to say"),
        ("--nodes=5", "for --nodes to say"),
        ("--wrap=ls", "no long option"),
        ("--comment=a\nb", "line breaks"),
        ('--comment=a"b', "double quotes"),
        ("--account=mine --wrap=ls\n", "line breaks"),
        ("", "--OPTION=VALUE"),
    ],
)
def test_what_is_no_option_of_sbatch(directive, told):
    with pytest.raises(UsageError, match=told):
        batch.script(Request(directives=(directive,)))


def test_jobs_with_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my job.toml", "-x.toml", "a%j.toml", "größe.toml"):
        (tmp_path / name).write_bytes((ROOT / "jobs/digits.toml").read_bytes())
        words = ["sbatch", *(["--"] if name.startswith("-") else []), name]
        script = damage.command(*words)
        (tmp_path / "run").mkdir(exist_ok=True)
        assert ran(script, tmp_path / "run")[-1] == (f"./{name}" if name.startswith("-") else name)
        assert re.search(r"(?m)^#SBATCH --job-name=[\w.+-]+$", script)
        shutil.rmtree(tmp_path / "run")
