"""An exchange from outside the package, entered by the decorator and named in the job as module:name."""

import sys
from importlib.metadata import EntryPoint

import pytest

from mpisign import plugins
from mpisign.errors import UsageError
from mpisign.exchange import REGISTRY, Exchange, exchange, registry
from mpisign.storage.reader import Run
from tests.comparing import differing
from tests.running import train
from tests.test_simulate import here

HUB = "tests.own_exchange:hub"


@pytest.fixture(autouse=True)
def _only_mpisigns_own():
    yield
    REGISTRY.pop("hub", None)
    sys.modules.pop("tests.own_exchange", None)


@pytest.mark.parametrize(
    "algorithm",
    ["dist-ef-signsgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("signum-mv", "onebit-adam"))],
)
def test_it_trains_with_the_bits_and_bytes_of_sharded(algorithm, tmp_path):
    settings = ["run.steps=30", "run.eval_every=10", "run.record_every=1", f"algorithm.name={algorithm}"]
    settings += ["algorithm.warmup_steps=12"] if algorithm == "onebit-adam" else []
    files = [tmp_path / f"{name}.h5" for name in ("sharded", "hub", "simulated")]
    for name, file in zip(("sharded", HUB), files, strict=False):
        ended = train(*settings, f"exchange.name={name}", f"run.file={file}", n=3)
        assert ended.code == 0, ended.err
    here(*settings, f"exchange.name={HUB}", f"run.file={files[2]}", n=3)
    assert Run(files[1]).attributes["exchange"].endswith("hub")
    assert not differing(files[0], files[1])
    assert not differing(files[1], files[2])


def test_a_package_declares_it_by_an_entry_point(monkeypatch):
    point = EntryPoint("mine", "tests.own_exchange", "mpisign.exchanges")
    monkeypatch.setattr(plugins, "_declared", lambda group: {"mine": point} if group == point.group else {})
    plugins.load_all.cache_clear()
    assert registry.find("hub").name == "hub"
    plugins.load_all.cache_clear()
    with pytest.raises(UsageError, match=r"unknown exchange 'hup' \(did you mean hub\?\); known: allgather, .* auto"):
        registry.find("hup")


def test_what_can_not_be_entered():
    with pytest.raises(ValueError, match="'sharded' is taken"):
        exchange("sharded")(type("Mine", (Exchange,), {}))
    with pytest.raises(ValueError, match=r"needs \['pigeons'\]; known: \['counts', 'pieces'\]"):
        exchange("mine")(type("Mine", (Exchange,), {"needs": frozenset({"pigeons"})}))
