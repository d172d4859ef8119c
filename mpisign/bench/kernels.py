"""`mpisign bench kernels`: nanoseconds per coordinate of every kernel, beside what this machine's memory can do."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from mpisign import bits
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import alone
from mpisign.bits.precompile import compile_ahead
from mpisign.bits.rng import Streams
from mpisign.parallel.device import name_of, select_device, synchronize

COLUMNS = {"kernel": "", "ns a coordinate": ".3f", "GB/s": ".1f", "share": ".0%", "of": ""}


def kernels(d: int, voters: int, threads: int, repeats: int, say: Say, wanted: str = "cpu") -> Table:
    """Medians over vectors of d coordinates, on so many threads, counts for so many voters.

    wanted: "cpu" or "cuda", whose kernels are timed until the device has done its work.
    """
    device = select_device(wanted, 0)
    torch.set_num_threads(threads)
    bits.use_threads(threads)
    compile_ahead(voters)
    d = max(d // 4096, 1) * 4096
    about = {"d": d, "voters": voters, "device": name_of(device), "threads": threads, "median of": repeats} | machine()
    table = Table("kernels", COLUMNS, about)
    v, x = (torch.empty(d, device=device).uniform_(-1, 1) for _ in range(2))

    def timed(work: Callable) -> float:
        return alone(lambda: (work(), synchronize(device)), repeats)

    bandwidth: dict[str, float] = {}
    for kind, work, moved in (("read", lambda: torch.max(v.view(torch.int32)), 4), ("copy", lambda: x.copy_(v), 8)):
        took = timed(work)
        bandwidth[kind] = moved * d / took
        table.add(kernel=f"(torch {kind})", **{"ns a coordinate": took / d * 1e9, "GB/s": bandwidth[kind] / 1e9})
    for name, work, moved, kind in works(v, x, d, voters):
        say(f"kernel {name}")
        took = timed(work)
        numbers = {"ns a coordinate": took / d * 1e9, "GB/s": moved * d / took / 1e9}
        share = moved * d / took / bandwidth[kind] if kind else None
        table.add(kernel=name, share=share, of=kind or None, **numbers)
    return table


def works(v, x, d: int, voters: int) -> list[tuple[str, Callable, float, str]]:
    """(name, work, bytes per coordinate that it moves, the bandwidth it is compared with)."""
    streams, words = Streams(1), d // 64
    coin, draw = streams.coin("zero", 3, 2), streams.draw("sign", 3, 2)
    new = lambda planes: bits.new_planes(planes, words, v.device)  # noqa: E731
    plane, two, four = map(new, (1, 2, 4))
    for planes in (plane, two, four):
        planes.random_()
    ballots, counted, verdict = new(voters).random_(), new(bits.width(voters)), new(1)
    signs, levels = (np.linspace(-1e-3, 1e-3, k, dtype=np.float32)[None] for k in (2, 16))
    tiles = np.array([[lo, lo + 4096, 0] for lo in range(0, d, 4096)]).T.copy()
    one, fields = np.ones(1, dtype=np.float32), torch.zeros(bits.fields_for(d, voters), dtype=torch.int64)
    at_once = lambda: bits.majority_of_ballots(ballots, 0, "coin", coin, verdict, False)  # noqa: E731
    radii, parts = torch.full_like(v, 2.0), np.array([[0], [d], [0]])
    rounded = torch.empty(d, dtype=torch.int16, device=v.device)
    with_radii = partial(bits.pack_stochastic_parts, v, radii, parts, 0, draw, plane)
    with_feedback = partial(bits.pack_scaled_parts, v, one * 1e-9, parts, 0, "coin", coin, plane)
    kernels = [
        ("pack", lambda: bits.pack_parts(v, parts, 0, "coin", coin, plane), 4 + 1 / 8, "read"),
        ("pack, abstaining", lambda: bits.pack_parts(v, parts, 0, "abstain", coin, two), 4 + 2 / 8, "read"),
        ("stochastic pack", lambda: bits.pack_stochastic_parts(v, one * 2, parts, 0, draw, plane), 4 + 1 / 8, "read"),
        ("stochastic pack, own radii", with_radii, 8 + 1 / 8, "read"),
        ("scaled pack, error feedback", with_feedback, 8 + 1 / 8, "copy"),
        ("add and sum", lambda: bits.add_and_sum(x, v, one * 1e-9, tiles), 12, "copy"),
        ("search for NaN", lambda: bits.first_nonfinite(v), 4, "read"),
        ("sums of tiles", lambda: bits.tile_sums(v, tiles), 4, "read"),
        ("count", lambda: bits.count(ballots, counted), voters / 8, ""),
        ("majority", lambda: bits.majority(counted, None, voters, 0, "coin", coin, verdict), len(counted) / 8, ""),
        ("count and majority at once", at_once, voters / 8, ""),
        ("apply", lambda: bits.apply(x, plane, parts, 0, signs, one), 8 + 1 / 8, "copy"),
        ("apply, abstaining", lambda: bits.apply(x, two, parts, 0, np.tile(signs, 2), one), 8 + 2 / 8, "copy"),
        ("apply, four planes", lambda: bits.apply(x, four, parts, 0, levels, one), 8 + 4 / 8, "copy"),
        ("moving average", lambda: bits.blend(x, v, 0.9, 0.1), 12, "copy"),
        ("normal noise", lambda: bits.add_normal(x, 1e-9, 0, draw), 8, "copy"),
        ("stochastic rounding", lambda: bits.round_stochastic(v, 0, draw, rounded), 6, "copy"),
    ]
    if v.is_cuda:
        return kernels
    drawn = lambda: bits.randomised_majority(counted, None, voters, 0, draw, verdict)  # noqa: E731
    return [
        *kernels,
        ("randomised majority", drawn, len(counted) / 8, ""),
        ("spread into fields", lambda: bits.spread(plane[0], voters, fields), 1 / 8, ""),
        ("gather from fields", lambda: bits.gather(fields, voters, counted), 1 / 8, ""),
        *_messages(v, x, d),
    ]


def _messages(v, x, d: int) -> list[tuple[str, Callable, float, str]]:
    """The same for messages that are not planes: there and back."""
    draw, parts, scheme = Streams(1).draw("sign", 3, 2), np.array([[0], [d], [0]]), bits.Scheme("linear", 7, 512, "l2")
    levels, means, largest, chosen = (
        torch.zeros(words, dtype=torch.int64)
        for words in (
            scheme.words(d),
            bits.two_means_words(d, 512),
            bits.largest_words(41, d, signs=False),
            bits.chosen_words(41, d),
        )
    )
    works = [
        ("pack levels", lambda: bits.pack_quantised(v, 0, scheme, draw, levels), levels, "read"),
        ("add levels", lambda: bits.add_quantised(x, levels, scheme, 1e-9), levels, "copy"),
        ("pack two means", lambda: bits.pack_two_means(v, 0, parts, 512, means), means, "read"),
        ("add two means", lambda: bits.add_two_means(x, means, 0, parts, 512, 1e-9), means, "copy"),
        ("pack largest", lambda: bits.pack_largest(v, 41, False, 0, draw, largest), largest, "read"),
        ("add largest", lambda: bits.add_largest(x, largest, 41, False, 1e-9), largest, ""),
        ("pack chosen", lambda: bits.pack_chosen(v, 41, True, 0, draw, chosen), chosen, "read"),
        ("add chosen", lambda: bits.add_chosen(x, chosen, 41, 0, draw, 1e-9), chosen, ""),
    ]
    moved = {"read": 4, "copy": 8, "": 0}
    return [(name, work, moved[kind] + 8 * len(message) / d, kind) for name, work, message, kind in works]
