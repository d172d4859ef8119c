"""The program as a user meets it: the main job, show, and every kind of bad input, with exit codes."""

import re

import h5py
import numpy as np
import pytest

from mpisign.storage.reader import Run, load_parameters
from tests.files import mnist_folder
from tests.running import BIN, ROOT, mpisign, run, train

QUICK = ("run.steps=20",)


def refused(ended, *words, code=2):
    """One message on one rank, the right code, no traceback."""
    assert ended.code == code, ended.err + ended.out
    assert "Traceback" not in ended.err
    assert len(re.findall("^mpisign: ", ended.err, re.MULTILINE)) == 1, ended.err
    for word in words:
        assert word in ended.err


@pytest.fixture(scope="module")
def main_run(tmp_path_factory):
    """The built-in job, cut short, on 3 ranks."""
    file = tmp_path_factory.mktemp("main") / "run.h5"
    ended = train(f"run.file={file}", "run.steps=40", "run.check_every=10", n=3)
    assert ended.code == 0, ended.err
    return file, ended


def test_the_main_job_prints_its_summary(main_run):
    file, ended = main_run
    for name in ("test_accuracy", "final_loss", "steps_per_second", "bits_per_coordinate", "run_file"):
        assert name in ended.values
    assert ended.values["run_file"] == str(file)
    assert ended.values["status"] == "complete"


def test_the_run_file_tells_what_the_run_was(main_run):
    run_ = Run(main_run[0])
    assert run_.complete
    assert run_.config["algorithm"] | {"name": "signum-mv", "zeros": "coin", "ties": "coin"} == run_.config["algorithm"]
    assert run_.config["problem"]["hidden"] == [128]
    assert "Majority(ties='coin')" in run_.attributes["definition"]
    assert run_["steps"]["step"].tolist() == [10, 20, 30, 40]
    assert run_["phases"]["rank"].tolist() == [0, 1, 2] * 4
    assert run_.partition["rows"].sum() == 1438
    assert run_.partition["class_counts"].sum() == 1438
    assert (np.diff(run_["steps"]["method_bytes_up"]) > 0).all()
    # of a single node nothing travels, not even headers, if that is what was fastest
    travels = run_.attributes["exchange"] != "hierarchical"
    assert ((np.diff(run_["steps"]["bytes_up"]) > 0) == travels).all()
    assert ((run_["steps"]["agreement"] > 0.3) & (run_["steps"]["agreement"] <= 1)).all()
    assert run_["steps"]["gradient_evaluations"][-1] == 40 * 3 * 8


def test_show_prints_the_run(main_run):
    ended = mpisign("show", main_run[0])
    assert ended.code == 0
    assert ended.values["status"] == "complete"
    assert "rows of each class" in ended.out
    assert mpisign("show", main_run[0], "--config").out.startswith("[run]")


def test_curves_are_drawn(main_run, tmp_path):
    picture = tmp_path / "curves.png"
    ended = mpisign("plot", main_run[0], main_run[0], "--output", picture)
    assert ended.code == 0, ended.err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    wrong = mpisign("plot", ROOT / "README.md")
    assert wrong.code == 2
    assert "README.md" in wrong.err


def test_kept_parameters_can_be_loaded(main_run):
    parameters = load_parameters(main_run[0].with_suffix(".model"))
    assert {k: v.shape for k, v in parameters.items()} == {
        "layer0.weight": (128, 64), "layer0.bias": (128,), "layer1.weight": (10, 128), "layer1.bias": (10,),
    }  # fmt: skip


def test_keep_best_saves_the_best_evaluated_point(tmp_path):
    file = tmp_path / "r.h5"
    # a rate at which the quadratic first falls and then jumps about
    ended = train("problem.name=quadratic", "problem.noise=0", "schedule.lr=0.4", "run.steps=20",
                  "run.keep=best", "run.eval_every=1", f"run.file={file}")  # fmt: skip
    assert ended.code == 0, ended.err
    losses = Run(file)["eval"]["train_loss"]
    x = load_parameters(file.with_suffix(".model"))["x"]
    assert 0.5 * float((x.astype(float) ** 2).sum()) == pytest.approx(losses.min(), rel=1e-6)


def test_an_existing_run_is_refused_unless_overwritten(main_run):
    file, _ = main_run
    before = file.read_bytes()
    refused(train(f"run.file={file}", *QUICK, n=2), "exists", "overwrite")
    assert file.read_bytes() == before


def test_overwrite_replaces_a_run(tmp_path):
    file = tmp_path / "r.h5"
    file.write_text("something else")
    assert mpisign("train", "--overwrite", "--set", f"run.file={file}", "--set", "run.steps=5").code == 0
    assert Run(file).complete


def test_rewritten_run_files_hold_the_same(tmp_path):
    columns = []
    for mode in ("swmr", "rewrite"):
        file = tmp_path / f"{mode}.h5"
        assert train(f"run.file={file}", f"run.recorder={mode}", *QUICK).code == 0
        columns.append(Run(file)["steps"]["loss"])
    np.testing.assert_array_equal(*columns)


def test_help_and_algorithms_start_no_mpi():
    # a launcher's promise that no MPI could keep
    promise = {"PMI_RANK": "0", "PMI_SIZE": "4", "PMI_FD": "99"}
    assert "train" in mpisign("--help", environment=promise).out
    listed = mpisign("algorithms", environment=promise)
    assert listed.code == 0
    assert all(
        name in listed.out for name in ("signsgd-mv", "signum-mv", "ssdm", "dist-ef-signsgd", "ssvr-mv", "sgd", "adam")
    )
    assert "Momentum(beta=0.9" in mpisign("algorithms", "signum-mv").out


def test_dry_run_tells_costs_and_writes_nothing(tmp_path):
    file = tmp_path / "r.h5"
    # whatever auto would find fastest here
    ended = mpisign("train", "--dry-run", "--set", f"run.file={file}", "--set", "exchange.name=sharded", n=2)
    assert ended.code == 0, ended.err
    assert ended.values["d"] == "9610"
    assert ended.values["evaluations_per_step"] == "16"
    # two ranks: half the words up, half of the verdict down
    assert int(ended.values["bytes_per_step"]) == pytest.approx(9610 / 8, rel=0.02)
    assert not file.exists()


def test_bad_configuration_under_mpirun_is_one_message():
    refused(train("algorithm.name=nonsense", n=3), "nonsense", "signum-mv")


def test_bad_configuration_is_refused_before_mpi():
    # a launcher's promise that no MPI could keep: it is not asked for
    promise = {"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": "99"}
    refused(train("run.setps=5", environment=promise), "run.setps")
    other = train("run.setps=5", environment=promise | {"PMI_RANK": "1"})
    assert (other.code, other.err) == (2, "")


def test_one_rank_needs_no_mpi_and_several_say_how_to_get_it(tmp_path):
    nowhere = {"MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")}
    alone = train(*QUICK, f"run.file={tmp_path}/r.h5", environment=nowhere)
    assert alone.code == 0, alone.err
    assert "mpi: none" in alone.out
    promised = train(*QUICK, environment=nowhere | {"PMI_RANK": "0", "PMI_SIZE": "2"})
    refused(promised, "no MPI library", "mpisign[mpich]")


def test_mnist_reads_idx_files_gzipped_or_not(tmp_path):
    settings = (f"problem.path={mnist_folder(tmp_path)}", "problem.batch_size=4", "run.epochs=2")
    ended = train(*settings, f"run.file={tmp_path}/r.h5", job=ROOT / "jobs/mnist_mlp.toml", n=2)
    assert ended.code == 0, ended.err
    assert "test_accuracy" in ended.values


def test_missing_data_is_one_message(tmp_path):
    settings = ("problem.name=logistic", f"problem.path={tmp_path}/data", *QUICK, f"run.file={tmp_path}/r.h5")
    refused(train(*settings, n=2), "no file", "problem.path")


@pytest.mark.parametrize(
    ("name", "content", "settings", "words"),
    [
        ("data_batch_1.bin", b"x" * 5000, ("problem.name=cifar10", "problem.test=[]"), ["5000 bytes", "cut short"]),
        pytest.param(
            "text", b"caf\xe9 " * 99, ("problem.name=text",), ["not text in utf-8", "problem.encoding"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "data.h5", b"", ("problem.name=hdf5",), ["no dataset 'x'", "its datasets: y"], marks=pytest.mark.slow
        ),
        pytest.param(
            "data.h5", b"", ("problem.name=hdf5", "problem.inputs=y2", "problem.classes=2"),
            ["a label of 3", "2 classes"], marks=pytest.mark.slow,
        ),
        ("data.h5", b"", ("problem.name=hdf5", "run.device=cuda"), ["no GPU for this rank", "run.device"]),
    ],
)  # fmt: skip
def test_data_that_cant_be_used_is_told_once(tmp_path, monkeypatch, name, content, settings, words):
    file = tmp_path / name
    file.write_bytes(content)
    if not content:
        with h5py.File(file, "w") as f:
            f["y"], f["y2"] = np.arange(40) % 4, np.zeros((40, 2))
            if "run.device=cuda" in settings:
                f["x"] = f["y2"][:]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = tmp_path if name.endswith(".bin") else file
    refused(train(*settings, f"problem.path={path}", f"run.file={tmp_path}/r.h5", *QUICK, n=2), *words)
    assert not (tmp_path / "r.h5").exists()


@pytest.mark.slow
def test_more_ranks_than_rows_is_refused(tmp_path):
    ended = train("problem.name=tests.problems:Awkward", "problem.rows=2", *QUICK, f"run.file={tmp_path}/r.h5", n=3)
    refused(ended, "2 rows", "3 ranks")


def test_unwritable_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    refused(train(f"run.file={tmp_path}/file/r.h5", *QUICK, n=2), "can't write the run file", "run.file")


def test_nan_stops_all_ranks_before_x_moves(tmp_path):
    file = tmp_path / "r.h5"
    settings = ("problem.name=tests.problems:Faulty", "problem.fault=poison", "run.steps=50")
    ended = train(*settings, "run.record_every=1", f"run.file={file}", n=3)
    refused(ended, "rank 1", "d[3]", "step 4", code=3)
    run_ = Run(file)
    assert not run_.complete
    assert run_.status.startswith("error at step 4: rank 1")
    assert run_["steps"]["step"].tolist() == [1, 2, 3, 4]
    with h5py.File(file, "r"):
        pass  # closed properly: a plain reader opens it


def test_an_exception_on_one_rank_ends_the_job(tmp_path):
    ended = train("problem.name=tests.problems:Faulty", "problem.fault=raise", "run.steps=50",
                  f"run.file={tmp_path}/r.h5", n=3, timeout=40)  # fmt: skip
    assert ended.code != 0
    assert "rank 1/3" in ended.err
    assert "on fire" in ended.err
    assert not Run(tmp_path / "r.h5").complete


def test_a_drifted_replica_is_named(tmp_path):
    ended = train("problem.name=tests.problems:Drifting", "run.steps=50", "run.check_every=10",
                  f"run.file={tmp_path}/r.h5", n=3)  # fmt: skip
    refused(ended, "[1]", "step 10", code=3)


@pytest.mark.slow
def test_the_launcher_of_another_mpi_is_refused(tmp_path):
    """What Open MPI's mpirun does to a Python whose mpi4py found MPICH: its variables, and ranks alone."""
    launcher = tmp_path / "mpirun"
    launcher.write_text(
        "#!/bin/sh\nfor rank in 0 1; do\n"
        '  OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=2 "$@" & pids="$pids $!"\ndone\n'
        "code=0; for p in $pids; do wait $p || code=$?; done; exit $code\n"
    )
    launcher.chmod(0o755)
    ended = run(launcher, BIN / "mpisign", "train", *("--set", f"run.file={tmp_path}/r.h5"))
    refused(ended, "Open MPI's mpirun", "another MPI", "bin/mpirun")
    assert not (tmp_path / "r.h5").exists()
