"""cifar10 and what models with BatchNorm need: statistics that move once a step, and come back from a checkpoint."""

import gzip
import lzma

import numpy as np
import pytest
import torch

from mpisign import mpi, restart
from mpisign.checkpoint import Checkpoint
from mpisign.errors import UsageError
from mpisign.problems.cifar10 import Cifar10, _augmented, read_batch
from mpisign.problems.models import MODELS
from tests.building import Setup, digest


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
    return Setup(Cifar10(str(folder), model="convnet"), n, batch_size=4, **oracle)


def test_batches_of_any_length_are_read_whole(folder):
    tables = Cifar10(str(folder), model="convnet").read()
    assert tables.train.count == 40
    assert tables.test.count == 10
    first = records(24)[0]
    assert tables.train["labels"][0] == first[0]
    np.testing.assert_array_equal(tables.train["inputs"][0].ravel(), first[1:])


def test_a_training_batch_can_be_held_out(folder):
    tables = Cifar10(str(folder), model="convnet", test=["data_batch_2"]).read()
    assert (tables.train.count, tables.test.count) == (24, 16)


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "0 bytes"), (b"x" * 3074, "no whole records"), (b"\xff" * 3073, "a label of 255")]
)
def test_other_files_are_refused(tmp_path, content, told):
    file = tmp_path / "data_batch_1.bin"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_batch(file)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match=r"problem\.path"):
        Cifar10(str(tmp_path / "nowhere"), model="convnet").read()
    with pytest.raises(UsageError, match=r"problem\.test"):
        Cifar10(str(folder), model="convnet", test=["data_batch_5"]).read()
    with pytest.raises(UsageError, match="convnet, resnet18"):
        Cifar10(str(folder), model="vgg")


def test_resnet18_has_its_size():
    assert sum(p.numel() for p in MODELS["resnet18"](10).parameters()) == 11_173_962


def test_augmented_images_are_shifted_or_mirrored_whole():
    torch.manual_seed(0)
    images = torch.randint(1, 256, (20, 3, 32, 32), dtype=torch.uint8)
    for image, got in zip(images, _augmented(images), strict=True):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        windows = [padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
        assert any(torch.equal(got, w) or torch.equal(got, w.flip(2)) for w in windows)


@pytest.mark.parametrize("name", ["ssvr", "ssvr-fs", "signsvrg", "zo-signsgd"])
def test_statistics_move_once_a_step_and_by_the_first_point_alone(folder, name):
    """BatchNorm's running mean after a step is that of one forward pass of the batch at x."""
    setup = setup_of(folder)
    stepper = setup.stepper(setup.algorithm(name))
    stepper.step(0.01)
    alone = setup.oracle(0, stepper.turns.sampling)
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
    restart.save(tmp_path / "state.h5", stepper, mpi.alone(3), "", {}, None)
    restored = setup.stepper(setup.algorithm("ssvr"))
    restart.restore(Checkpoint(tmp_path / "state.h5"), restored, mpi.alone(3))
    for one in (stepper, restored):
        one.step(0.01)
    assert digest(stepper) == digest(restored)
    for one, other in zip(stepper.oracles, restored.oracles, strict=True):
        assert all(torch.equal(v, other.statistics[k]) for k, v in one.statistics.items())
