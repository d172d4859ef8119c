"""The method's own cost: by definition of the method, whatever carries it; and beside it what the exchange sends."""

import numpy as np
import pytest

from mpisign import exchange
from mpisign.cli import show
from mpisign.storage.reader import Run
from mpisign.storage.schema import TABLES
from mpisign.storage.writer import RunWriter
from tests.building import Setup
from tests.files import older
from tests.problems import Awkward
from tests.running import train
from tests.test_simulate import here

N, STEPS, TENSORS = 3, 7, 4
OTHERS = N - 1
FLAGS, WORD = 3 * 64, 64  # bits of a header before the scales; a float64


def every(k):
    """How many of the steps are multiples of k."""
    return -(-STEPS // k)


# name, hyperparameters -> bits a coordinate up and down, float32 scales a tensor up (of a voter) and down (in all), and
# float64 numbers that every voter tells all others: in all steps
EXACT, OTHER = every(3), STEPS - every(3)
METHODS = {
    "a vote": ("signsgd-mv", {}, (STEPS, STEPS), (0, 0), 0),
    "abstentions": ("signsgd-mv", {"zeros": "abstain", "ties": "zero"}, (2 * STEPS, 2 * STEPS), (0, 0), 0),
    "an average": ("ssdm", {}, (STEPS, 2 * STEPS), (0, 0), 0),
    "scales both ways": ("dist-ef-signsgd", {}, (STEPS, STEPS), (STEPS, STEPS), 0),
    "floats down": ("ef-signsgd", {}, (STEPS, 32 * STEPS), (STEPS, 0), 0),
    "shared radii": ("sto-signsgd", {"refresh": 3}, (STEPS + 32 * EXACT, STEPS + 32 * EXACT), (0, 0), 0),
    "stages": ("onebit-adam", {"warmup_steps": 2}, (64 + STEPS - 2, 64 + STEPS - 2), (STEPS - 2, STEPS - 2), 0),
    "snapshots": ("dvr-sign", {"snapshot_every": 3}, (32 * EXACT + OTHER, STEPS), (OTHER, 0), 0),
    "told numbers": ("signsgd-free", {"most": 0.01}, (STEPS, STEPS), (0, 0), 2 * STEPS),
    "function values": ("signsgd", {"option": 2}, (STEPS, STEPS), (0, 0), STEPS + 1),
    "one sign in all": ("feedsign", {}, (0, 0), (0, 0), STEPS),
    "floats": ("sgd", {}, (32 * STEPS, 32 * STEPS), (0, 0), 0),
}


@pytest.fixture(scope="module")
def setup():
    return Setup(Awkward(), N)


def run_by(setup, algorithm, carrier):
    """Takes all steps; the stepper then tells."""
    stepper = setup.stepper(algorithm, carrier, node_size=2)
    for t in range(STEPS):
        stepper.step(0.01 / (1 + t))
    return stepper


def carriers(algorithm):
    raw = [stage.sign.up().raw for stage in algorithm.stages]
    words = () if all(raw) else ("sharded", "allgather", "allreduce", "hierarchical", "butterfly")
    return words + (("dense", "dense-mpi") if any(raw) else ())


@pytest.mark.parametrize("case", METHODS)
def test_the_method_costs_what_its_definition_says(setup, case):
    name, how, (up, down), (scales_up, scales_down), told = METHODS[case]
    algorithm, d = setup.algorithm(name, **how), setup.layout.size
    wanted = (
        OTHERS * (up * d + N * (32 * TENSORS * scales_up + WORD * told)),
        OTHERS * (down * d + 32 * TENSORS * scales_down),
    )
    for carrier in carriers(algorithm):
        cost = run_by(setup, algorithm, carrier).world.cost
        assert (cost.up, cost.down) == wanted, carrier


@pytest.mark.parametrize("case", METHODS)
def test_sharded_sends_that_and_headers_pads_and_tile_sums(setup, case):
    name, how, (up, down), (scales_up, scales_down), _ = METHODS[case]
    stepper = run_by(setup, setup.algorithm(name, **how), "auto" if name in ("sgd", "feedsign") else "sharded")
    layout, sent, cost = setup.layout, stepper.world.traffic, stepper.world.cost
    pads = layout.length - layout.size
    # scales travel as float64, in headers that tell three numbers more; a mean or maximum in n parts of one length
    headers = OTHERS * N * (FLAGS * STEPS + 32 * TENSORS * scales_up)
    uneven = OTHERS * 32 * (-layout.length % N) * (EXACT if case == "shared radii" else 0)
    tiles = OTHERS * WORD * layout.tiles(0, layout.length).shape[1] * scales_down - OTHERS * 32 * TENSORS * scales_down
    assert 8 * sent.up - cost.up == OTHERS * up * pads + headers + uneven
    assert 8 * sent.down - cost.down == OTHERS * down * pads + tiles + uneven


# of d = 4,235 coordinates a tile of 4096 sends 41, and the 139 others 2; of all of them 42 are the largest
SENT = 41 + 2
SPARSE = {
    "places and values": ("topk", {}, (12 + 32) * SENT, 0),
    "values": ("randk", {}, 32 * SENT, 0),
    "places and signs": ("s3gd-mv", {}, (12 + 1) * SENT, 0),
    "more signs than a verdict has": ("s3gd-mv", {"density": 0.3}, 13 * (1229 + 42), 2 * 4235),
    "signs of a block": ("absignsgd-mv", {"blocks": 4}, 1059, 1059),
    "entries": ("topk", {"select": "all"}, 64 * 42, 0),
}


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_messages_cost_what_their_definition_says(setup, case):
    """Where that takes fewer bits, every message goes to all others, and nothing comes down, whatever carries them."""
    name, how, sent, decided = SPARSE[case]
    algorithm = setup.algorithm(name, **how)
    assert exchange.choose("auto", algorithm, N)[0].name == ("sharded" if decided else "allgather")
    for carrier in exchange.candidates(algorithm):
        cost = run_by(setup, algorithm, carrier).world.cost
        to_whom = OTHERS if decided else OTHERS * N
        assert (cost.up, cost.down) == (STEPS * to_whom * sent, STEPS * OTHERS * decided), carrier


def test_words_of_sparse_messages_are_sent_whole(setup):
    """12-bit places and values fill words: of the tile of 4096, 8 + 21; of the 320 with their pads, four, 1 + 2."""
    stepper = run_by(setup, setup.algorithm("topk"), "allgather")
    assert 8 * stepper.world.traffic.up == STEPS * OTHERS * N * (64 * (8 + 21 + 1 + 2) + FLAGS)


def test_messages_that_vary_are_counted_as_they_are(setup):
    stepper = run_by(setup, setup.algorithm("wangni"), "allgather")
    sent, cost, wanted = stepper.world.traffic, stepper.world.cost, 0.05 * setup.layout.size
    entries = cost.up / 64 / (OTHERS * N * STEPS)
    assert 0.5 * wanted < entries < wanted + 4 * (wanted / (N * STEPS)) ** 0.5
    # before the entries their number, and before that the length of the message
    assert 8 * sent.up - cost.up == STEPS * OTHERS * N * (2 * 64 + FLAGS)
    assert sent.down == cost.down == 0


D, BUCKETS = 4235, 67  # coordinates, and buckets of 64 of them
LEVELS, MEANS = 3 * D + 32 * BUCKETS, D + 64 * BUCKETS
# name, hyperparameters -> bits of a message and of a verdict, which is 0 where messages go to all others instead; and
# float32 numbers per tensor of which all voters share the maximum, or the mean
QUANTISED = {
    "levels to all": ("qsgd", {"levels": 3, "bucket": 64}, LEVELS, 0, 0),
    "levels both ways": ("qsgd", {"levels": 3, "bucket": 64, "down": "levels"}, LEVELS, LEVELS, 0),
    "powers of two": ("qsgd", {"spacing": "exponents"}, 9 * D, 0, 0),
    "ternary values": ("terngrad", {}, 2 * D, 3 * D, 1),
    "two means": ("onebit-sgd", {"bucket": 64}, MEANS, MEANS, 0),
    "memories": ("diana", {"bucket": 64}, 2 * D + 32 * BUCKETS, 0, 0),
    # the mean of momenta is floats both ways, too
    "whole numbers": ("fedlion", {"local_steps": 3}, 3 * D, 0, D / TENSORS),
    "numbers and a sign": ("lion-cub", {"bits": 3, "sync_every": 1}, 3 * D, D, D / TENSORS),
    "codes both ways": ("doublesqueeze", {"up": "levels", "down": "two-means"}, 4 * D + 32 * 9, D + 64 * 9, 0),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised_methods_cost_what_their_codes_say(setup, case):
    name, how, up, down, shared = QUANTISED[case]
    algorithm, maxima = setup.algorithm(name, **how), 32 * TENSORS * shared
    assert setup.layout.size == D
    wanted = OTHERS * STEPS * (up * (1 if down else N) + maxima), OTHERS * STEPS * (down + maxima)
    fitting = exchange.candidates(algorithm)
    assert {"sharded", "allgather"} <= set(fitting)
    for carrier in fitting:
        cost = run_by(setup, algorithm, carrier).world.cost
        assert (cost.up, cost.down) == wanted, carrier


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One job by every exchange that a simulation can imitate, by mpirun, and by one voter."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ("run.steps=12", "run.eval_every=4", "run.record_every=1", "algorithm.name=signum-mv")
    for name in ("sharded", "allgather", "allreduce", "hierarchical", "butterfly"):
        here(*settings, f"exchange.name={name}", f"run.file={folder}/{name}.h5", n=3)
    assert train(*settings, "exchange.name=hierarchical", f"run.file={folder}/mpirun.h5", n=3).code == 0
    here(*settings, f"run.file={folder}/one.h5", n=1)
    return folder


def test_a_run_file_tells_the_same_cost_whatever_carried_it(files):
    runs = {path.stem: Run(path) for path in files.glob("*.h5")}
    several = [run for name, run in runs.items() if name != "one"]
    for run in several:
        d, steps = run.attributes["d"], run["steps"]
        np.testing.assert_allclose(steps["method_bytes_up"], steps["step"] * d * 2 / 3 / 8, rtol=1e-12)
        np.testing.assert_array_equal(steps["method_bytes_down"], steps["method_bytes_up"])
        np.testing.assert_array_equal(run["eval"]["method_bytes_up"][1:], steps["method_bytes_up"][3::4])
        assert run.bits_per_coordinate == pytest.approx(4 / 3)
        assert run.summary()["bits_per_coordinate"] == 1.3333
    # four exchanges, of which mpirun's hierarchical is the simulation's
    assert len({round(run.wire_bits_per_coordinate, 2) for run in several}) == 4
    sharded = runs["sharded"]
    header = 8 * 3 * 8 * 2 / sharded.attributes["d"]
    assert 4 / 3 < sharded.wire_bits_per_coordinate < 4 / 3 * 1.02 + header


def test_the_summary_says_why_little_or_nothing_was_sent(files):
    notes = {path.stem: Run(path).summary().get("bytes_note", "") for path in files.glob("*.h5")}
    assert notes["one"] == "one voter: nothing travels"
    assert notes["mpirun"].startswith("hierarchical on one node: ")
    assert "simulated" in notes["sharded"]
    assert "one node" not in notes["sharded"]
    assert "simulated" in notes["hierarchical"]
    assert "one node" in notes["hierarchical"]
    assert Run(files / "one.h5").summary()["bits_per_coordinate"] == 0
    assert "bytes_note: one voter" in show.describe(Run(files / "one.h5"))


def test_older_run_files_stay_readable(files, tmp_path):
    sharded, gathered = (older(files / f"{name}.h5", tmp_path / f"{name}.h5") for name in ("sharded", "allgather"))
    # sharded sends what the method says, and headers
    np.testing.assert_array_equal(sharded.method_bytes("eval"), sharded.wire_bytes("eval"))
    assert sharded.bits_per_coordinate == sharded.wire_bits_per_coordinate > 4 / 3
    assert np.isnan(gathered.method_bytes("steps")).all()
    assert np.isnan(gathered.summary()["bits_per_coordinate"])


def test_a_run_that_goes_on_from_an_older_file_keeps_all_its_rows(files, tmp_path):
    run, path = older(files / "sharded.h5", tmp_path / "old.h5"), tmp_path / "new.h5"
    tables = {table: run[table] for table in TABLES}
    tables["steps"] = {name: column[:11] for name, column in run["steps"].items()}
    recorder = RunWriter(path, run.attributes, run.config_text, {}, tables=tables)
    recorder.append("steps", **({c.name: 1 for c in TABLES["steps"]} | {"step": 12}))
    recorder.close()
    steps = Run(path)["steps"]
    assert steps["step"].tolist() == list(range(1, 13))
    assert np.isnan(steps["method_bytes_up"][:11]).all()
    assert steps["method_bytes_up"][11] == 1
