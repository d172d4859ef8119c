"""SignOptimizer.memory(): what it tells is what is there."""

import gc

import pytest
import torch
from torch import nn

from mpisign.exchange.hierarchical import Hierarchical
from mpisign.optim import SignOptimizer

pytestmark = pytest.mark.mpi

SLACK = 1 << 14  # bytes of small tables: layouts, headers, counters


def network(dtype):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(900, 300), nn.Tanh(), nn.Linear(300, 300)).to(dtype)


def step(net, opt):
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    opt.zero_grad()


def held():
    """Bytes in the memory of all tensors that there are, those that lie in others' counted once."""
    gc.collect()
    # what dispatches by itself, as Dynamo's fake tensors of other tests do, has no memory of its own
    kinds = (torch.Tensor, nn.Parameter)
    tensors = [o for o in gc.get_objects() if type(o) in kinds and o.device.type == "cpu"]
    storages = [t.untyped_storage() for t in tensors if t.layout is torch.strided]
    total = reach = 0
    for lo, hi in sorted({(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages if s.nbytes()}):
        total += max(hi - max(lo, reach), 0)
        reach = max(reach, hi)
    return total


KINDS = [(torch.float32, "nearest"), (torch.bfloat16, "nearest"), (torch.bfloat16, "stochastic")]
X = {KINDS[0]: {"x": 4}, KINDS[1]: {"x": 4, "copies": 2}, KINDS[2]: {"x": 2}}  # bytes per coordinate


@pytest.mark.parametrize("how", [{}, {"overlap": True}, {"dense_steps": 1}], ids=str)
@pytest.mark.parametrize(("dtype", "rounding"), KINDS)
def test_what_it_tells_is_what_is_there(comm, everywhere, dtype, rounding, how):
    exchange = "sharded" if comm.Get_size() > 1 else "auto"
    before = held()
    net = network(dtype)
    opt = SignOptimizer(net, "signum-mv", lr=0.01, comm=comm, chunk=4096, exchange=exchange, rounding=rounding, **how)
    for _ in range(3):
        step(net, opt)
    memory, there = opt.memory(), held() - before
    everywhere(abs(memory.total - there) <= SLACK, f"{memory.total} bytes are told, {there} are there: {memory.bytes}")
    everywhere(memory.total == sum(memory.bytes.values()), "the total")
    d = sum(p.numel() for p in net.parameters())
    told = {name: memory.per_coordinate[name] for name in ("x", "copies", "moving") if name in memory.bytes}
    wanted = X[dtype, rounding] | ({"moving": told["moving"]} if rounding == "stochastic" else {})
    pads = opt.layout.length / d
    exactly = all(each == pytest.approx(wanted[name], rel=pads - 1 + 1e-9) for name, each in told.items())
    everywhere(told.keys() == wanted.keys() and exactly, f"{told}")
    everywhere(memory.coordinates == d and f"x {told['x']:.3f}, " in str(memory), str(memory))


def test_stochastic_rounding_takes_four_bytes_per_coordinate_less(comm, everywhere):
    """But for the piece that is in float32, which does not grow with x."""
    d, totals, exchange = 1 << 20, [], "sharded" if comm.Get_size() > 1 else "auto"
    for rounding in ("nearest", "stochastic"):
        p = nn.Parameter(torch.zeros(d, dtype=torch.bfloat16))
        opt = SignOptimizer([p], "signsgd-mv", lr=0.01, comm=comm, rounding=rounding, exchange=exchange)
        totals.append(opt.memory())
    nearest, stochastic = totals
    piece = stochastic.bytes["moving"]
    everywhere(piece == 1 << 20, "2^18 coordinates in float32")
    everywhere(nearest.total - stochastic.total == 4 * d - piece, f"{nearest} and {stochastic}")


@pytest.mark.mpi(min_size=2)
def test_a_window_of_a_node_is_shared_out(comm, everywhere):
    net = network(torch.float32)
    opt = SignOptimizer(net, "signum-mv", lr=0.01, comm=comm, exchange="hierarchical")
    exchange = opt.stepper.exchange
    everywhere(isinstance(exchange, Hierarchical), "votes are counted in a window")
    before, own = opt.memory().bytes["messages"], exchange.shared // comm.Get_size()
    opt.close()
    everywhere(own and before - opt.memory().bytes.get("messages", 0) == own, "a part of the window was this rank's")
