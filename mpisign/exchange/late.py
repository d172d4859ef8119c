"""mpi4py's MPI, imported when something of it is first asked for.

To import it starts MPI, which a plan, a simulation and a reader of results do without, and may not even have. An
exchange therefore takes MPI from here, and can be imported anywhere.
"""

from typing import Any


class _Late:
    def __getattr__(self, name: str) -> Any:
        from mpi4py import MPI

        value = getattr(MPI, name)
        setattr(self, name, value)  # the next time it is found without a call
        return value


MPI: Any = _Late()


def library_of(world: Any) -> Any:
    """MPI; or where torch.distributed carries a world's messages, the module that stands in for it."""
    return getattr(getattr(world, "comm", None), "library", MPI)
