"""CIFAR's batches, models for images, and statistics that move once a step and come back from a checkpoint."""

import gzip
import lzma
import pickle

import numpy as np
import pytest
import torch

from mpisign import config as configuration
from mpisign.bits.rng import Streams
from mpisign.engine import state
from mpisign.errors import UsageError
from mpisign.parallel import mpi
from mpisign.problems.cifar import Cifar10, Cifar100
from mpisign.problems.data.readers.cifar import read_batch
from mpisign.problems.images import choices_of, varied
from mpisign.problems.models import IMAGES, Recipe
from mpisign.run.evaluate import statistics
from mpisign.run.job import Job
from mpisign.run.plan import resolve
from mpisign.storage.checkpoint import Checkpoint, saved
from mpisign.storage.reader import load_parameters
from tests.building import PROGRESS, Setup, digest


def records(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.hstack([rng.integers(10, size=(count, 1)), rng.integers(256, size=(count, 3072))]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(records(24).tobytes())
    (tmp_path / "data_batch_2.bin.gz").write_bytes(gzip.compress(records(16, 1).tobytes()))
    (tmp_path / "test_batch.bin.xz").write_bytes(lzma.compress(records(10, 2).tobytes()))
    return tmp_path


def setup_of(folder, n=1, **oracle):
    return Setup(Cifar10(str(folder), model="cnn"), n, batch_size=4, **oracle)


def test_batches_of_any_length_are_read_whole(folder):
    tables = Cifar10(str(folder), model="cnn").read()
    assert tables.train.count == 40
    assert tables.test.count == 10
    first = records(24)[0]
    assert tables.train["labels"][0] == first[0]
    np.testing.assert_array_equal(tables.train["inputs"][0].ravel(), first[1:])


def test_a_training_batch_can_be_held_out(folder):
    tables = Cifar10(str(folder), model="cnn", test=["data_batch_2"]).read()
    assert (tables.train.count, tables.test.count) == (24, 16)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes"),
        (b"x" * 3074, "no whole records"),
        (b"\x7f" * 3073, "a label of 127"),
        (b"\x80\x04.", "can't be read as a Python batch"),
        (pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}), "it is no batch"),
        (pickle.dumps({b"data": print}), "which no batch of CIFAR does"),
    ],
)
def test_other_files_are_refused(tmp_path, content, told):
    file = tmp_path / "data_batch_1.bin"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_batch(file, 10)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match=r"problem\.path"):
        Cifar10(str(tmp_path / "nowhere"), model="cnn").read()
    with pytest.raises(UsageError, match=r"problem\.test"):
        Cifar10(str(folder), model="cnn", test=["data_batch_5"]).read()
    with pytest.raises(UsageError, match="cnn, mlp, resnet18, resnet20"):
        Cifar10(str(folder), model="vgg")


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("protocol", [2, 4])
def test_python_batches_hold_what_binary_ones_do(tmp_path, classes, protocol):
    images, labels = records(12)[:, 1:], np.arange(12) % classes
    head = labels[:, None] if classes == 10 else np.stack([labels // 5, labels], axis=1)
    (tmp_path / "one.bin").write_bytes(np.hstack([head, images]).astype(np.uint8).tobytes())
    key = b"labels" if classes == 10 else b"fine_labels"
    batch = {b"data": images, key: labels.tolist(), b"batch_label": b"one", b"filenames": [b"a.png"] * 12}
    (tmp_path / "one").write_bytes(pickle.dumps(batch, protocol=protocol))
    binary, python = (read_batch(tmp_path / name, classes) for name in ("one.bin", "one"))
    for name in ("inputs", "labels"):
        np.testing.assert_array_equal(binary[name], python[name])
    np.testing.assert_array_equal(python["labels"], labels)


def test_cifar100_is_read_from_its_folder(tmp_path):
    for stem in ("train", "test"):
        content = {b"data": records(6)[:, 1:], b"fine_labels": [0, 99, 5, 6, 7, 8], b"coarse_labels": [0] * 6}
        (tmp_path / stem).write_bytes(pickle.dumps(content))
    problem = Cifar100(str(tmp_path), model="resnet20", norm="group")
    assert problem.read().train["labels"].tolist() == [0, 99, 5, 6, 7, 8]
    assert problem.statistics() == {}
    assert problem.initial(np.random.default_rng(0))["14.weight"].shape == (100, 64)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 11_173_962), ("resnet20", 269_722), ("cnn", 24_346)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_models_have_their_sizes(name, size, norm):
    model = IMAGES[name](3, 10, norm)
    assert sum(p.numel() for p in model.parameters()) == size
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_row_that_is_no_image_is_refused():
    with pytest.raises(UsageError, match=r"shape \[64\]"):
        Recipe("cnn").build((64,), 10)


def test_images_are_shifted_or_mirrored_whole_by_the_runs_own_draws():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(1, 256, (40, 3, 32, 32), dtype=np.uint8))
    draw = Streams(3).draw("augment", 5, 1)
    shifts, mirrored = choices_of(40, draw, 7)
    blocks = draw.blocks(7, 40)
    for k, (image, got) in enumerate(zip(images, varied(images, shifts, mirrored), strict=True)):
        down, right = (int(word) * 9 >> 32 for word in blocks[k, :2])
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        wanted = padded[:, down : down + 32, right : right + 32]
        assert torch.equal(got, wanted.flip(2) if blocks[k, 2] >> 31 else wanted)
    assert len(set(shifts.ravel().tolist())) == 9
    assert 0 < mirrored.sum() < 40


@pytest.mark.parametrize("name", ["ssvr", "ssvr-fs", "signsvrg", "zo-signsgd"])
def test_statistics_move_once_a_step_and_by_the_first_point_alone(folder, name):
    """BatchNorm's running mean after a step is that of one forward pass of the batch at x."""
    setup = setup_of(folder)
    stepper = setup.stepper(setup.algorithm(name))
    stepper.step(0.01)
    alone = setup.oracle(0, stepper.algorithm.sampling)
    statistics = {k: v.clone() for k, v in stepper.oracles[0].statistics.items()}
    alone.statistics = {k: v.clone() for k, v in statistics.items()}
    alone.begin(1)
    alone.gradient(stepper.x, setup.layout.zeros())
    assert not all(torch.equal(alone.statistics[k], v) for k, v in statistics.items())
    stepper.step(0.01)
    for key, moved in stepper.oracles[0].statistics.items():
        torch.testing.assert_close(moved, alone.statistics[key], rtol=1e-5, atol=1e-6)


def test_statistics_move_with_every_minibatch_of_a_local_walk(folder):
    setup = setup_of(folder)
    stepper = setup.stepper(setup.algorithm("z-signfedavg", local_steps=3, local_lr=1e-9))
    stepper.step(0.01)
    alone = setup.oracle(0)
    for t in range(3):
        alone.begin(t)
        alone.gradient(setup.x, setup.layout.zeros())
    for key, moved in stepper.oracles[0].statistics.items():
        torch.testing.assert_close(moved, alone.statistics[key], rtol=1e-5, atol=1e-6)


def test_both_points_of_storm_see_the_same_images_and_batch_statistics(folder):
    """Where x did not move, the two gradients of a batch are the same bits, augmentation and BatchNorm included."""
    setup = setup_of(folder)
    oracle, one, other = setup.oracle(0), setup.layout.zeros(), setup.layout.zeros()
    oracle.begin(3)
    oracle.gradient(setup.x, one)
    oracle.gradient(setup.x.clone(), other, again=True)
    assert torch.equal(one, other)
    oracle.begin(4)
    oracle.gradient(setup.x, other)
    assert not torch.equal(one, other)


def test_statistics_are_each_voters_own_and_go_on_from_a_checkpoint(folder, tmp_path):
    setup = setup_of(folder, n=3)
    stepper = setup.stepper(setup.algorithm("ssvr"))
    for _ in range(3):
        stepper.step(0.01)
    means = [oracle.statistics["1.running_mean"] for oracle in stepper.oracles]
    assert not torch.equal(means[0], means[1])
    state.save_state(tmp_path / "state.h5", stepper, mpi.alone(3), "", PROGRESS, None)
    restored = setup.stepper(setup.algorithm("ssvr"))
    state.load_state(Checkpoint(tmp_path / "state.h5"), restored, mpi.alone(3))
    for one in (stepper, restored):
        one.step(0.01)
    assert digest(stepper) == digest(restored)
    for one, other in zip(stepper.oracles, restored.oracles, strict=True):
        assert all(torch.equal(v, other.statistics[k]) for k, v in one.statistics.items())


def test_a_model_is_measured_and_kept_with_the_mean_of_all_voters_statistics(folder, tmp_path):
    """By train.simulate, and at the best of its points, also after a stop in between."""
    job = {
        "run": {"epochs": 5, "file": str(tmp_path / "run.h5"), "keep": "best", "eval_every": 1, "record_every": 1},
        "problem": {"name": "cifar10", "path": str(folder), "model": "cnn", "batch_size": 4},
        "schedule": {"lr": 0.01},
        "checkpoint": {"every_steps": 2},
    }
    config = configuration.make(job)
    plan = resolve(config, 3)
    whole = Job(plan, mpi.alone(3), 3, quiet=True)
    whole.run()
    stepper = whole.stepper
    mean = {k: sum(o.statistics[k] for o in stepper.oracles) / 3 for k in stepper.oracles[0].statistics}
    found = statistics(stepper, whole.log.everyone)
    for name, array in mean.items():
        torch.testing.assert_close(found[name], array)
    best = whole.log.kept_step
    kept = load_parameters(tmp_path / "run.model")
    assert set(kept) == {*stepper.layout.views(stepper.x), *mean}
    assert best < stepper.t, "so that what is kept is not what is there at the end"
    assert not np.array_equal(kept["1.running_mean"], found["1.running_mean"].numpy())
    # the point that was best before the checkpoint comes back with its statistics
    checkpoints = [f for f in saved(tmp_path / "run.h5") if int(f.stem[5:]) >= best]
    again = Job(plan, mpi.alone(3), 3, quiet=True)
    with Checkpoint(checkpoints[-1]) as opened:
        _, point = state.load_state(opened, again.stepper, mpi.alone(3))
    for name in mean:
        np.testing.assert_array_equal(point[name].numpy(), kept[name])
