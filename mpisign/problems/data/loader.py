"""A voter's rows on its device: all of them where they fit, else batch by batch, each before it is needed."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from mpisign.problems.base import Rows

SHARE = 0.4  # of the free memory of a GPU, that rows of all ranks on it may take


class DeviceLoader:
    """A voter's rows (numpy or scipy arrays), and their batches on a device as Rows of tensors.

    resident: whether all rows lie on the device; by default where they fit. sharing: ranks that use the device.
    """

    def __init__(self, rows: Rows, device: torch.device, resident: bool | None = None, sharing: int = 1):
        self.count, self._device = rows.count, device
        self._rows = rows.tensors()
        self._latest: tuple[bytes, Rows] | None = None
        self._prefetched: tuple[bytes, Future[Rows]] | None = None
        if resident is None:
            resident = device.type == "cpu" or _fits(self._rows, sharing)
        self.fetches = not resident
        if resident and device.type != "cpu":
            self._rows = self._rows.to(device)
        if self.fetches:
            self._pool = ThreadPoolExecutor(1, "mpisign-feed")
            self._stream = torch.cuda.Stream(device) if device.type != "cpu" else None

    def __getitem__(self, name: str):
        return self._rows[name]

    @property
    def arrays(self) -> dict:
        """All arrays by name, where they lie."""
        return self._rows.arrays

    def take(self, rows: np.ndarray | slice, prefetch: np.ndarray | None = None) -> Rows:
        """The rows of these numbers, or of a slice, on the device. prefetch: those that will be asked for next."""
        if not self.fetches:
            # all of them as they are: sparse rows would be copied
            is_all = isinstance(rows, slice) and rows.indices(self.count) == (0, self.count, 1)
            return self._rows if is_all else self._rows.take(rows)
        wanted = _key(rows)
        if self._latest is None or self._latest[0] != wanted:  # a method may look at one batch more than once
            foreseen = self._prefetched is not None and self._prefetched[0] == wanted
            self._latest = wanted, self._prefetched[1].result() if foreseen else self._fetch(rows)
        batch = self._latest[1]
        if self._stream is not None:
            # memory of the other stream, which must not be used again before this one is done with it
            stream = torch.cuda.current_stream(self._device)
            stream.wait_stream(self._stream)
            for array in batch.arrays.values():
                array.record_stream(stream)
        if prefetch is not None and (self._prefetched is None or self._prefetched[0] != _key(prefetch)):
            self._prefetched = _key(prefetch), self._pool.submit(self._fetch, prefetch)
        return batch

    def _fetch(self, rows: np.ndarray | slice) -> Rows:
        """Gathers rows in pinned memory and starts to copy them, by a stream of its own."""
        if self._stream is None:
            return self._rows.take(rows)
        with torch.cuda.stream(self._stream):
            arrays = {k: _pinned(a, rows).to(self._device, non_blocking=True) for k, a in self._rows.arrays.items()}
            self._stream.synchronize()  # of this thread alone: the pinned memory may then be given back
        return Rows(**arrays)


def _pinned(array: Tensor, rows: np.ndarray | slice) -> Tensor:
    if isinstance(rows, slice):
        return array[rows].pin_memory()
    out = torch.empty((len(rows), *array.shape[1:]), dtype=array.dtype, pin_memory=True)
    return torch.index_select(array, 0, torch.from_numpy(rows), out=out)


def _key(rows: np.ndarray | slice) -> bytes:
    return rows.tobytes() if isinstance(rows, np.ndarray) else repr(rows).encode()


def _fits(rows: Rows, sharing: int) -> bool:
    free, _ = torch.cuda.mem_get_info()
    return sum(a.nbytes for a in rows.arrays.values()) * sharing <= SHARE * free
