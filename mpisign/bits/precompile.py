"""Compiles every kernel before anybody waits for one, and tells where compiled ones lie."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from mpisign import bits
from mpisign.bits.cpu import cache
from mpisign.bits.rng import Draw

MOST = 8  # processes that compile at once


@dataclass(frozen=True)
class State:
    """How many kernels this process had to compile, what was found of them, and what is to be done about it."""

    compiled: int
    found: str
    remedy: str = ""

    def __str__(self):
        return self.found


def state() -> State:
    """What this process has met so far of kernels on disk."""
    places = [f"from {folder}" for folder in sorted(map(str, cache.used))]
    if cache.compiled:
        places.append(f"{len(cache.compiled)} compiled just now")
    remedies = []
    if cache.lost:
        remedies.append(
            "compiled kernels could be kept nowhere, so that every process compiles them anew: let NUMBA_CACHE_DIR "
            "name a folder that you, and nobody else, may write to"
        )
    if cache.damaged:
        remedies.append(f"damaged, and to be removed by whoever may: {', '.join(sorted(map(str, cache.damaged)))}")
    return State(len(cache.compiled), ", ".join(places) or "none used", "; ".join(remedies))


def are_compiled() -> bool:
    """Whether every kernel that compile_ahead() calls is on disk; nothing is compiled, and nothing written."""
    try:
        with cache.looking():
            compile_ahead()
    except cache.NotCompiledError:
        return False
    return True


def compile_ahead(voters: int = 2, first: float = 0.0) -> None:
    """Calls every kernel once on almost nothing, so that each is compiled and on disk, where that can be.

    voters: for whom a tree of adders is made. first: the part of all calls that comes last, in [0, 1): processes that
    begin in several places find on disk what the others compiled.
    """
    calls = [*_calls(voters), *_calls_of_messages()]
    begin = int(first * len(calls))
    for call in calls[begin:] + calls[:begin]:
        call()


def make_ready(voters: int = 2) -> None:
    """Has every kernel on disk, where that can be; each is loaded when it is first called.

    Loading all of them takes most of a second, and a job calls few.
    """
    name = f"all-{voters}"
    if not cache.is_complete(name):
        compile_ahead(voters)
        cache.note_complete(name)


def compile_at_once() -> None:
    """The same by as many processes as there are cores, of which this is one."""
    processes = min(len(os.sched_getaffinity(0)), MOST)
    with ProcessPoolExecutor(MOST, get_context("spawn")) as pool:
        others = [pool.submit(compile_ahead, 2, k / processes) for k in range(1, processes)]
        compile_ahead()
        for other in others:
            other.result()


def _calls(voters: int) -> Iterator[Callable[[], object]]:
    v, draw = torch.ones(70), Draw((1, 2), 3, 4, 5)
    plus, table = bits.new_planes(2, 2), np.ones(8, dtype=np.float32)
    parts = np.array([[0], [70], [0]])
    scattered = bits.Scattered([v], parts[:2], len(v))
    # planes as they are, and as part of a wider chunk, which is another type to numba
    rows, wide = torch.ones(2, 70), torch.ones(2, 128)[:, :70]
    for some in (rows, wide):
        for planes in (torch.zeros((2, 2, 2), dtype=torch.int64), torch.zeros((2, 2, 3), dtype=torch.int64)[:, :, :2]):
            yield partial(bits.pack_parts, some, parts, 0, "abstain", draw, planes)
            yield partial(bits.pack_stochastic_parts, some, table, parts, 0, draw, planes)
            yield partial(bits.pack_stochastic_parts, some, some, parts, 0, draw, planes)
        yield partial(bits.add_normal, some, 1.0, 0, draw)
    yield partial(bits.uniforms, 70, draw)
    for planes in (bits.new_planes(3, 2), bits.new_planes(3, 3)[:, :2]):
        for some in (planes[:1], planes[:2]):
            zeros = "abstain" if len(some) == 2 else "plus"
            yield partial(bits.pack, v, 0, zeros, draw, some)
            yield partial(bits.pack_parts, v, parts, 0, zeros, draw, some)
            yield partial(bits.pack_parts, scattered, parts, 0, zeros, draw, some)
            yield partial(bits.pack_scaled_parts, v, table, parts, 0, zeros, draw, some)
            yield partial(bits.pack_stochastic, v, 1.0, 0, draw, some)
            yield partial(bits.pack_stochastic_parts, v, v, parts, 0, draw, some)
            yield partial(bits.pack_stochastic_parts, v, table, parts, 0, draw, some)
            yield partial(bits.add_levels, v, some, table)
            yield partial(bits.add_signed, v, some, 1.0)
        yield partial(bits.apply, v, planes, parts, 0, table[None], table)
    yield partial(bits.count, plus.clone(), plus)
    counts, fields = (
        bits.new_planes(bits.width(voters), 2),
        torch.zeros(bits.fields_for(128, voters), dtype=torch.int64),
    )
    for some in (bits.new_planes(voters, 2), bits.new_planes(voters, 3)[:, :2]):
        yield partial(bits.count, some, counts)
        yield partial(bits.majority_of_ballots, some, 0, "coin", draw, bits.new_planes(1, some.shape[1]))
        yield partial(bits.add, counts, counts.clone())
        weights = (3, *[1] * (voters - 1))
        yield partial(bits.count_weighted, some, weights, bits.new_planes(bits.width(sum(weights)), some.shape[1]))
    yield partial(bits.add, counts, bits.new_planes(1, 3)[:, :2])
    yield partial(bits.spread, plus[0], voters, fields)
    yield partial(bits.gather, fields, voters, counts)
    verdict = bits.new_planes(1, 2)
    yield partial(bits.majority, plus, None, 2, 0, "coin", draw, verdict)
    yield partial(bits.randomised_majority, plus, None, 2, 0, draw, verdict)
    yield partial(bits.codes, plus, plus.clone(), 2, bits.new_planes(3, 2))
    yield partial(bits.agreement, plus, None, 2)
    weigh = partial(bits.weighted_majority, plus[:, None], torch.zeros(2, 70)[:1], 1.0, (True, 1, 1, 0, 1.0))
    yield partial(weigh, 0, "coin", draw, verdict)
    yield partial(bits.blend, v, v.clone(), 1.0, 1.0)
    yield partial(bits.add_normal, v, 1.0, 0, draw)
    yield partial(bits.round_stochastic, v, 0, draw, torch.zeros(70, dtype=torch.int16))
    yield partial(bits.tile_maxima, v, np.array([[0], [70], [0]]))
    yield partial(bits.tile_sums, v, np.array([[0], [70], [0]]))
    yield partial(bits.add_and_sum, v, v.clone(), table, np.array([[0], [70], [0]]))
    yield partial(bits.first_nonfinite, v)
    yield partial(bits.first_nonfinite, scattered)
    yield partial(bits.count_ones, plus[0])
    yield partial(bits.differing_parts, plus[0], plus[1], np.array([[0], [70], [0]]), 0)


def _calls_of_messages() -> Iterator[Callable[[], object]]:
    """Those of messages that are not planes."""
    draw = Draw((1, 2), 3, 4, 5)
    v, message, parts = torch.ones(64), torch.zeros(1024, dtype=torch.int64), np.array([[0], [64], [0]])
    for scheme in (bits.Scheme("linear", 1, 64, "max"), bits.Scheme("exponents", 255, 4096, "max")):
        yield partial(bits.pack_quantised, v, 0, scheme, draw, message)
        yield partial(bits.add_quantised, v, message, scheme, 1.0)
    yield partial(bits.pack_two_means, v, 0, parts, 64, message)
    yield partial(bits.add_two_means, v, message, 0, parts, 64, 1.0)
    yield partial(bits.pack_largest, v, 64, True, 0, draw, message)
    yield partial(bits.add_largest, v, message, 64, True, 1.0)
    yield partial(bits.pack_largest_means, v, 64, message)
    yield partial(bits.add_largest_means, v, message, 64, 1.0)
    yield partial(bits.clear_largest, v, message, 64, True)
    for planes in (bits.new_planes(2, 1), bits.new_planes(2, 2)[:, :1]):
        yield partial(bits.planes_of_largest, message, 64, planes)
    yield partial(bits.pack_chosen, v, 64, True, 0, draw, message)
    yield partial(bits.add_chosen, v, message, 64, 0, draw, 1.0)
    yield partial(bits.pack_greatest, v, 1, message)
    yield partial(bits.pack_drawn, v, 0, 1.0, draw, message)
    yield partial(bits.add_entries, v, message, 1.0)
    yield partial(bits.clear_entries, v, message)
