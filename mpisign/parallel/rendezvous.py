"""torch.distributed among the ranks of MPI, without torchrun: who is where is agreed on by MPI."""

import fcntl
import os
import socket
import struct
from datetime import timedelta

import torch.distributed as dist

from mpisign.errors import UsageError
from mpisign.parallel import ending, mpi
from mpisign.parallel.mpi import Ranks

ADDRESS_OF = 0x8915  # Linux' SIOCGIFADDR
BACKENDS = ("gloo", "nccl", "mpi", "ucc", "xccl")  # torch's own
PATIENCE = timedelta(minutes=30)  # until all ranks have joined, and as torch's own default for one call


def start(ranks: Ranks, backend: str = "gloo") -> None:
    """Joins torch's default process group, with ranks as MPI numbers them. Collective.

    Sets the variables by which torchrun tells a process its place, for libraries that read them. Raises UsageError, on
    all ranks, for a backend that this torch lacks.
    """
    with ranks.agreed():
        _refuse(backend)
    hosts = ranks.allgather(socket.gethostname(), "names of hosts")
    one_host = len(set(hosts)) == 1
    if interface := "lo" if one_host else _towards(next(host for host in hosts if host != socket.gethostname())):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    address = "127.0.0.1" if one_host else hosts[0]
    store = None
    with ranks.agreed():
        if ranks.root:
            store = _store(address, ranks.size)
    port = ranks.share(store.port if store else None)
    store = store or dist.TCPStore(address, port, ranks.size, False, PATIENCE)
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(ranks.rank),
        WORLD_SIZE=str(ranks.size),
        LOCAL_RANK=str(ranks.local_rank),
        LOCAL_WORLD_SIZE=str(len(ranks.members)),
    )
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE)
    ending.at_end(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def start_among_all(backend: str) -> None:
    """The same among all that mpirun or srun started; where torchrun did, by what it says."""
    if not dist.is_available():
        raise UsageError("this torch was built without torch.distributed")
    _refuse(backend)
    if mpi.default_group(backend) is not None:
        return
    if dist.is_initialized():
        raise UsageError("torch.distributed runs already; start_process_group() is for where nothing has started it")
    start(mpi.everyone(), backend)


def _store(address: str, size: int) -> dist.TCPStore:
    """Root's store, at a port that is free."""
    try:
        return dist.TCPStore(address, 0, size, True, PATIENCE, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:  # torch.distributed's errors are RuntimeErrors
        raise UsageError(f"torch.distributed can't listen at {address}, rank 0's host: {error}") from error


def _refuse(backend: str) -> None:
    wanted = [part.rpartition(":")[2] for part in str(backend).split(",")]
    for name in wanted:
        if not dist.is_backend_available(name):
            able = [known for known in BACKENDS if dist.is_backend_available(known)]
            raise UsageError(f"backend = {backend!r}: this torch has {', '.join(able)}")


def _towards(host: str) -> str:
    """The network interface by which this host reaches another; "" where that can't be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # nothing is sent
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address(probe, name) == own:
                    return name
    except OSError:
        pass
    return ""


def _address(probe: socket.socket, interface: str) -> str:
    """The IPv4 address of an interface; "" if it has none."""
    try:
        found = fcntl.ioctl(probe.fileno(), ADDRESS_OF, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return ""
    return socket.inet_ntoa(found[20:24])
