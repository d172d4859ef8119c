"""The voters of a run and what they agree on besides the vote: headers, means, maxima, sums.

A World is Mpi, with one voter per rank, or Local, with all n voters in this process (one rank alone, or a simulation).
Slots get a World and never see MPI. Float sums run in voter order, so both give the same bits; and both count the bytes
that n ranks send.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mpisign.parallel.communicator import Communicator
from mpisign.parallel.inside import Inside
from mpisign.parallel.watchdog import WATCH

PIECE = 1 << 28  # floats in one message at most, far below MPI's 2**31 elements


@dataclass
class Traffic:
    """Bytes that this process's voters sent: towards a vote, back from it, and for records and checks."""

    up: int = 0
    down: int = 0
    other: int = 0


@dataclass
class Cost:
    """Bits of all voters' messages towards votes, and back, by the definition of the method under `sharded`.

    Every process holds the sum over all voters, which no machine, placement or exchange has a part in.
    """

    up: int = 0
    down: int = 0


class World:
    """n voters, of which `local` run in this process.

    voters: the numbers of all that vote, in their order, from which those of lost ranks are missing.
    """

    n: int
    rank: int = 0
    local: tuple[int, ...]
    voters: tuple[int, ...]
    each: int = 1  # ranks of a voter
    shards: tuple[int, ...] = ()  # coordinates of each of these, where they are simulated
    by_process: tuple[tuple[int, ...], ...]  # the voters of each process, in their order

    def __init__(self):
        self.traffic, self.cost = Traffic(), Cost()
        self.watch = WATCH

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is gathered inside, as for a checkpoint, does not count."""
        traffic, cost = replace(self.traffic), replace(self.cost)
        yield
        # in place, as two worlds of the same ranks may count together
        vars(self.traffic).update(vars(traffic))
        vars(self.cost).update(vars(cost))

    def name_of(self, voter: int) -> str:
        """A voter, for an error: the rank that it is, or its ranks."""
        first, last = voter * self.each, (voter + 1) * self.each - 1
        return f"rank {voter}" if self.each == 1 else f"voter {voter} (ranks {first} to {last})"

    def voters_rows(self, rows: np.ndarray, origin: int) -> np.ndarray:
        """Header rows of this process's voters, from what it knows of them. origin: of its shard, where it has one."""
        return rows

    def start_header(self, rows: np.ndarray) -> None:
        """Sends this process's header rows, float64 (local voters, k), to everyone."""
        raise NotImplementedError

    def finish_header(self) -> np.ndarray:
        """The headers of all voters, float64 (n, k); valid until the next one starts."""
        raise NotImplementedError

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Rows of float64 (k,), one per process, as (processes, k) on every process; counted as `other`."""
        raise NotImplementedError

    def gather_voters(self, rows: np.ndarray) -> np.ndarray:
        """Rows of float64 (local voters, k) as (n, k) on every process; counted as `other`."""
        raise NotImplementedError

    def gather_bytes(self, value: bytes) -> list[bytes]:
        """One short byte string per process, in rank order; all of one length."""
        raise NotImplementedError

    def everyone(self, rows: list[Tensor]) -> Tensor:
        """Tensors of one shape, one per local voter, of all voters as (n, ...) on the host; not counted."""
        raise NotImplementedError

    def stack(self, vectors: list[Tensor]) -> "Shards":
        """Float32 vectors (d,), one per local voter, dealt out so that each process holds all voters' parts."""
        raise NotImplementedError

    def mean(self, vectors: list[Tensor], size: int = 0) -> Tensor:
        """Mean over all voters of float32 vectors (d,), one per local voter: summed in voter order.

        size: coordinates that are no pads, which is what the method's cost counts; by default all.
        """
        self._count_floats(size or len(vectors[0]))
        shards = self.stack(vectors)
        return shards.everywhere(ordered_sum(shards.own) / self.n)

    def max(self, vectors: list[Tensor], size: int = 0) -> Tensor:
        """Largest value per coordinate over all voters, float32 (d,). size: as in mean()."""
        self._count_floats(size or len(vectors[0]))
        shards = self.stack(vectors)
        return shards.everywhere(shards.own.amax(dim=0))

    def count_step(self, sent: tuple[int, int], method: tuple[int, int]) -> None:
        """Counts messages of a step, up and down: bytes this process sends, and the method's bits of all voters."""
        self.traffic.up += sent[0]
        self.traffic.down += sent[1]
        self.cost.up += method[0]
        self.cost.down += method[1]

    def count_reported(self, numbers: int) -> None:
        """Counts float64 numbers of each voter that the method has everyone told, as part of its cost."""
        self.cost.up += 64 * numbers * self.n * (self.n - 1)

    def _count_floats(self, coordinates: int) -> None:
        """Counts raw floats that go up to shards, and what becomes of them down to everyone."""
        self.cost.up += 32 * coordinates * (self.n - 1)
        self.cost.down += 32 * coordinates * (self.n - 1)

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums of named float64 values over all processes, added in rank order."""
        rows = self.gather(np.array(list(values.values()), dtype=np.float64))
        return dict(zip(values, ordered_total(rows), strict=True))

    def sums_over_voters(self, rows: list[Mapping[str, float]]) -> dict[str, float]:
        """Sums of named float64 values, one mapping a local voter, added in voter order."""
        table = self.gather_voters(np.array([list(row.values()) for row in rows], dtype=np.float64))
        return dict(zip(rows[0], ordered_total(table), strict=True))


@dataclass
class Shards:
    """All voters' values (n, own coordinates) and the way to give everybody the outcome."""

    own: Tensor
    everywhere: Callable[[Tensor], Tensor]


def ordered_sum(rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Rows (n, d) added one after the other, which no library call promises; into out if it is given."""
    total = rows[0].clone() if out is None else out.copy_(rows[0])
    for row in rows[1:]:
        total += row
    return total


def ordered_total(rows: np.ndarray) -> list[float]:
    """The sum of rows (n, k), added one after the other from zero."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    return total.tolist()


class Local(World):
    """All voters in this process; nothing travels, but bytes are counted as if each voter were a rank, or several."""

    def __init__(self, n: int = 1, voters: tuple[int, ...] = (), shards: tuple[int, ...] = ()):
        """voters: their numbers, by default 0 to n - 1. shards: what each rank of a voter would have of x, as OfShards
        has it, if a voter would be several."""
        super().__init__()
        self.voters = self.local = voters or tuple(range(n))
        self.n, self.shards, self.each = len(self.voters), shards, max(len(shards), 1)
        self.by_process = (self.local,)

    def start_header(self, rows):
        self._rows = rows
        self.traffic.up += self.each * (self.n - 1) * rows.nbytes

    def finish_header(self):
        return self._rows

    def gather(self, values):
        ranks = self.n * self.each
        self.traffic.other += ranks * (ranks - 1) * values.nbytes
        return values[None]

    def gather_voters(self, rows):
        self.traffic.other += self.each * (self.n - 1) * rows.nbytes
        return rows

    def gather_bytes(self, value):
        self.traffic.other += self.each * self.n * (self.n - 1) * len(value)
        return [value]

    def everyone(self, rows):
        return torch.stack(rows).cpu()

    def stack(self, vectors):
        length = len(vectors[0])
        # of what is no vector like x, every rank of a voter has all
        parts = self.shards if length == sum(self.shards) else [length] * self.each
        sent = self.n * 4 * sum(-(-part // self.n) for part in parts) * (self.n - 1)
        self.traffic.up += sent

        def everywhere(outcome: Tensor) -> Tensor:
            self.traffic.down += sent
            return outcome

        return Shards(torch.stack(vectors), everywhere)


class Mpi(World):
    """One voter a rank of a communicator (nothing here imports MPI)."""

    def __init__(self, comm: Communicator, voters: tuple[int, ...] = ()):
        """voters: those of the ranks, by default as they are numbered themselves."""
        super().__init__()
        self.comm = comm
        self.n = self.size = comm.Get_size()
        self.rank = comm.Get_rank()
        self.voters = voters or tuple(range(self.n))
        self.by_process = tuple((voter,) for voter in self.voters)
        self.local = self.by_process[self.rank]
        self._header = None

    @cached_property
    def second_comm(self) -> Communicator:
        """A second communicator, for what no order ties to the messages on the first. The first use is collective."""
        return self.comm.Dup()

    def start_header(self, rows):
        if self._header is None or self._header.shape[1] != rows.shape[1]:
            self._header = np.empty((self.n, rows.shape[1]))
        self._request = self.comm.Iallgather(rows, self._header)
        self._sent = rows  # must outlive the request
        self.traffic.up += (self.n - 1) * rows.nbytes

    def finish_header(self):
        with self.watch("the Iallgather of headers"):
            self._request.Wait()
        return self._header

    def gather(self, values):
        rows = np.empty((self.size, len(values)))
        with self.watch("an Allgather of numbers for the run file"):
            self.comm.Allgather(values, rows)
        self.traffic.other += (self.size - 1) * values.nbytes
        return rows

    def gather_voters(self, rows):
        return self.gather(rows[0])

    def gather_bytes(self, value):
        rows = np.empty((self.size, len(value)), dtype=np.uint8)
        with self.watch("an Allgather of hashes"):
            self.comm.Allgather(np.frombuffer(value, dtype=np.uint8), rows)
        self.traffic.other += (self.size - 1) * len(value)
        return [row.tobytes() for row in rows]

    def everyone(self, rows):
        (row,) = rows
        row = row.cpu().contiguous()
        every = torch.empty(self.n, *row.shape, dtype=row.dtype)
        with self.watch("an Allgather of messages for a probe or adversary"):
            self.second_comm.Allgather(row.numpy(), every.numpy())
        return every

    def stack(self, vectors):
        (vector,) = vectors
        width = -(-len(vector) // self.n)
        padded = torch.zeros(self.n, width)
        padded.view(-1)[: len(vector)] = vector
        # over the host, whatever device the vector lies on
        own, step = torch.empty(self.n, width), max(PIECE // self.n, 1)
        for lo in range(0, width, step):
            part = padded[:, lo : lo + step].contiguous()
            came = torch.empty_like(part)
            with self.watch("an Alltoall of floats for a mean or maximum"):
                self.comm.Alltoall(part.numpy(), came.numpy())
            own[:, lo : lo + step] = came
        self.traffic.up += 4 * width * (self.n - 1)

        def everywhere(outcome: Tensor) -> Tensor:
            whole = torch.empty(self.n, width)
            for lo in range(0, width, step):
                part = outcome[lo : lo + step].contiguous()
                came = torch.empty(self.n, len(part))
                with self.watch("an Allgather of a mean or maximum"):
                    self.comm.Allgather(part.numpy(), came.numpy())
                whole[:, lo : lo + step] = came
            self.traffic.down += 4 * width * (self.n - 1)
            return whole.view(-1)[: len(vector)]

        return Shards(own, everywhere)


class OfShards(Mpi):
    """Voters of several ranks each, of which every one has a shard of all vectors: votes are among like shards."""

    def __init__(self, across, everyone, inside: Inside):
        """across: the ranks with a shard like this one's, one of each voter, in the voters' order. everyone: all."""
        super().__init__(across)
        self.everyone_comm, self.inside, self.each = everyone, inside, inside.size

    def voters_rows(self, rows, origin):
        return self.inside.header(rows[0], origin)[None]

    def gather(self, values):
        rows = np.empty((self.everyone_comm.Get_size(), len(values)))
        with self.watch("an Allgather of numbers for the run file"):
            self.everyone_comm.Allgather(values, rows)
        self.traffic.other += (len(rows) - 1) * values.nbytes
        return rows

    def gather_voters(self, rows):
        return super().gather(rows[0])

    def gather_bytes(self, value):
        return super().gather_bytes(self.inside.digest(value))


class Adopting(Mpi):
    """Ranks that run several voters each: their own, and those that they adopted from ranks that were lost."""

    def __init__(self, comm, by_rank: Sequence[tuple[int, ...]]):
        """by_rank: the voters of each rank."""
        super().__init__(comm)
        as_they_come = [voter for own in by_rank for voter in own]
        self.voters, self.local = tuple(sorted(as_they_come)), by_rank[self.rank]
        self.n, self.by_process = len(self.voters), tuple(by_rank)
        self.counts = [len(own) for own in by_rank]
        self.order = [as_they_come.index(voter) for voter in self.voters]  # of voters among what comes rank after rank

    def start_header(self, rows):
        self._header = np.empty((self.n, rows.shape[1]))
        self._request = self.comm.Iallgatherv(rows, [self._header, [count * rows.shape[1] for count in self.counts]])
        self._sent = rows  # must outlive the request
        self.traffic.up += (self.size - 1) * rows.nbytes

    def finish_header(self):
        return super().finish_header()[self.order]

    def gather_voters(self, rows):
        came = np.empty((self.n, rows.shape[1]))
        with self.watch("an Allgatherv of numbers for the run file"):
            self.comm.Allgatherv(rows, [came, [count * rows.shape[1] for count in self.counts]])
        self.traffic.other += (self.size - 1) * rows.nbytes
        return came[self.order]

    def stack(self, vectors):
        # every rank gets all of every vector: what is sent more is little beside a voter that would be missing
        own = torch.stack(vectors).cpu().numpy()
        came = torch.empty(self.n, own.shape[1])
        with self.watch("an Allgatherv of floats for a mean or maximum"):
            self.comm.Allgatherv(own, [came.numpy(), [count * own.shape[1] for count in self.counts]])
        self.traffic.up += (self.size - 1) * own.nbytes
        return Shards(came[self.order], lambda outcome: outcome)
