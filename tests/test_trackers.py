"""Runs for the trackers of others, read back from what was written; make test-trackers installs them."""

import importlib.util
import json
import os
import sqlite3
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mpisign.storage.reader import Run
from tests.running import BIN, ROOT, run
from tests.test_simulate import here

sys.path.insert(0, str(ROOT / "analysis"))
import to_tracker

BLOCK, WHOLE_OR_LAST = 1 << 15, (1, 4)  # of a .wandb file
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def installed(name):
    reason = f"{name} is not installed: make test-trackers"
    return pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=reason))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs with probes, whose settings differ in the rate."""
    where = tmp_path_factory.mktemp("runs")
    common = ("problem.name=quadratic", "run.steps=60", "run.eval_every=20", "run.record_every=5", "probe.every=20")
    for lr in (0.01, 0.05):
        here(*common, "algorithm.name=signsgd-mv", f"schedule.lr={lr}", f"run.file={where}/{lr}.h5", n=3)
    return where


def exported(name, runs, folder):
    """What a tracker is given, with a home of its own, and variables that would have it send what it is given."""
    home = {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "online", "TRACKIO_SPACE_ID": "some/space",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # fmt: skip
    return run(BIN / "python", ROOT / "analysis/to_tracker.py", runs, "--to", name, "--folder", folder / "out",
               environment=home, timeout=110)  # fmt: skip


def in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in sorted(os.listdir(folder)):
        events = EventAccumulator(str(folder / name), size_guidance={"scalars": 0})
        events.Reload()
        curves = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        yield name, curves, str(events.Tensors("job/text_summary")[0].tensor_proto.string_val[0], "utf-8")


def wandb_records(data):
    """The records in a .wandb file: LevelDB's log, blocks of 32 KiB with parts of records, behind a head of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 :][:length]
        at += 7 + length
        if kind in WHOLE_OR_LAST:
            yield record
            record = b""


def in_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        curves, name, config = {}, "", {}
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                name = record.run.display_name
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                for tag in items.keys() - {"_step", "_runtime", "_timestamp", "_wandb"}:
                    curves.setdefault(tag, []).append((record.history.step.num, items[tag]))
        yield name, curves, f"lr = {config['schedule.lr']}"


def in_mlflow(folder):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mpisign").experiment_id
    for found in sorted(client.search_runs([experiment]), key=lambda one: one.info.run_name):
        history = {tag: client.get_metric_history(found.info.run_id, tag) for tag in found.data.metrics}
        curves = {tag: [(m.step, m.value) for m in sorted(rows, key=lambda m: m.step)] for tag, rows in history.items()}
        assert found.info.status == "FINISHED"
        yield found.info.run_name, curves, f"lr = {found.data.params['schedule.lr']}"


def in_trackio(folder):
    (file,) = folder.rglob("mpisign.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY run_name, step").fetchall()
        configs = dict(store.execute("SELECT run_name, config FROM configs").fetchall())
    for name in sorted({row[0] for row in rows}):
        curves: dict = {}
        for _, step, values in (row for row in rows if row[0] == name):
            for tag, value in json.loads(values).items():
                curves.setdefault(tag, []).append((step, value))
        yield name, curves, f"lr = {json.loads(configs[name])['schedule.lr']}"


@pytest.mark.parametrize("name", [installed(name) for name in TRACKERS])
def test_what_a_tracker_holds_is_what_the_runs_hold(folder, tmp_path, name):
    ended = exported(name, folder, tmp_path)
    assert ended.code == 0, ended.err
    found = list(globals()[f"in_{name}"](tmp_path / "out"))
    assert [run_name for run_name, _, _ in found] == ["0.01", "0.05"]
    for file, (_, curves, job) in zip(sorted(folder.glob("*.h5")), found, strict=True):
        one = Run(file)
        assert f"lr = {one.config['schedule']['lr']}" in job
        for table in ("steps", "eval", "probes"):
            for column, values in one.columns(table).items():
                tag, real = f"{table}/{column}", np.isfinite(values)
                if column == "step" or column.startswith("snr_") or not real.any():
                    assert tag not in curves
                    continue
                steps, told = zip(*curves[tag], strict=True)
                assert list(steps) == one[table]["step"][real].tolist(), tag
                np.testing.assert_allclose(told, values[real], rtol=1e-6, err_msg=tag)


def test_times_are_those_of_the_rows(folder):
    one = Run(folder / "0.01.h5")
    began, when = one["events"]["time"][0], to_tracker.times(one)
    between = ~np.isin(one["steps"]["step"], one["eval"]["step"])
    assert between.any()
    for step, seconds in zip(*(one["steps"][name][between].tolist() for name in ("step", "seconds")), strict=True):
        assert when(step) == began + seconds
    told = [when(step) for step in range(61)]
    assert told == sorted(told)
    assert told[1] > began


@pytest.mark.parametrize(
    ("state", "status"),
    [("complete", "FINISHED"), ("error", "FAILED"), ("stopped", "KILLED"), ("killed", "KILLED"), ("running", None)],
)
def test_mlflow_is_told_what_became_of_a_run(folder, tmp_path, state, status, monkeypatch):
    one, told = Run(folder / "0.01.h5"), {}
    client = SimpleNamespace(
        get_experiment_by_name=lambda name: None,
        create_experiment=lambda name: "1",
        create_run=lambda experiment, start_time, run_name: (
            told.update(start=start_time) or SimpleNamespace(info=SimpleNamespace(run_id="a"))
        ),
        log_batch=lambda run, **rows: None,
        set_terminated=lambda run, status, end_time: told.update(status=status, end=end_time),
    )
    entities = SimpleNamespace(Param=lambda *values: values, Metric=lambda *values: values)
    mlflow = SimpleNamespace(MlflowClient=lambda tracking_uri: client, entities=entities)
    monkeypatch.setattr(to_tracker, "tracker", lambda module: mlflow)
    monkeypatch.setattr(Run, "state", state)
    to_tracker.to_mlflow(one, "one", tmp_path)
    assert told.get("status") == status
    if status:
        assert told["end"] == round(1000 * (one["events"]["time"][0] + one["steps"]["seconds"][-1]))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_missing_is_one_line(folder, tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')\n")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = run(BIN / "python", ROOT / "analysis/to_tracker.py", folder / "0.01.h5", "--to", name, "--folder",
                tmp_path / "out", environment=environment)  # fmt: skip
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert f"{name} can't be imported (hidden); pip install 'mpisign[trackers]'" in ended.err
