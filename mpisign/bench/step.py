"""`mpisign bench step`: a step of one rank against the same loop in plain torch."""

import torch

from mpisign import exchange, problems
from mpisign.algorithms.registry import find
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import in_turns
from mpisign.bits.rng import Streams
from mpisign.engine.build import make_stepper
from mpisign.engine.stepper import Stepper
from mpisign.layout import Layout
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Local
from mpisign.problems import Oracle

COLUMNS = {"hidden": "", "d": ",d", "batch": ",d", "plain ms": ".3f", "mpisign ms": ".3f", "slower": "+.1%"}
RATE, BETA, STEPS = 1e-3, 0.9, 50


def step(widths: tuple[int, ...], batch: int, repeats: int, say: Say) -> Table:
    """Medians of rounds of 50 steps of signum on the digits, one hidden layer of each width, in turns."""
    about = {"algorithm": "signum-mv, momentum and sign", "median of": repeats, "steps a round": STEPS}
    table = Table("step", COLUMNS, about | {"threads": torch.get_num_threads()} | machine())
    for width in widths:
        stepper, plain = _ours(width, batch), _plain(width, batch)
        works = {"plain": lambda p=plain: _rounds(p), "mpisign": lambda s=stepper: _rounds(lambda: s.step(RATE))}
        seconds = {k: t.median / STEPS for k, t in in_turns(works, repeats, Ranks(), say).items()}
        row = {"plain ms": seconds["plain"] * 1e3, "mpisign ms": seconds["mpisign"] * 1e3}
        row["slower"] = seconds["mpisign"] / seconds["plain"] - 1
        table.add(hidden=str(width), d=stepper.layout.size, batch=batch, **row)
    return table


def _rounds(work) -> None:
    for _ in range(STEPS):
        work()


def _problem(width: int):
    problem = problems.find("digits")(hidden=[width])
    tables = problem.read()
    problem.adopt(problem.describe(tables))
    return problem, tables.train


def _ours(width: int, batch: int) -> Stepper:
    (problem, rows), streams, world = _problem(width), Streams(1), Local(1)
    start = problem.initial(streams.draw("initial", 0).generator())
    layout = Layout({name: tuple(p.shape) for name, p in start.items()})
    algorithm = find("signum-mv").build(beta=BETA).with_rules("auto", "auto", 1)
    oracle = Oracle(problem, layout, rows, 0, streams, batch_size=batch)
    chosen = exchange.choose("auto", algorithm, 1)
    return make_stepper(algorithm, chosen, layout, world, streams, [oracle], layout.flatten(start))


def _plain(width: int, batch: int):
    """The same model, rows and rule as anybody would write them in torch."""
    problem, rows = _problem(width)
    rows = rows.tensors()
    start = problem.initial(Streams(1).draw("initial", 0).generator())
    parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
    momenta = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def once():
        chosen = torch.randint(rows.count, (batch,))
        problem.loss(parameters, rows.take(chosen)).backward()
        with torch.no_grad():
            for name, p in parameters.items():
                momenta[name].mul_(BETA).add_(p.grad, alpha=1 - BETA)
                p.sub_(momenta[name].sign(), alpha=RATE)
                p.grad = None

    return once
