"""The requests of ranks in the header of a step, and the errors that they agree on.

A request is one float64 per rank, for which the header has a place: FAULT, or a hash of all that must be alike on all
ranks: learning rates, weight decays, and which gradients are missing. Only where hashes differ is anything else sent.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from mpisign.errors import UsageError
from mpisign.optim.agreement import by_value
from mpisign.optim.collective import INTERRUPT
from mpisign.optim.gradients import Gradients
from mpisign.parallel.mpi import Ranks

FAULT = 1  # the request of a rank that has something to tell before anything moves
DIFFERING = INTERRUPT - 1  # that of a voter whose ranks differ, above any hash
HASH = 6  # bytes of the hash: whole numbers up to 2**48 are exact in float64


def request(gradients: Gradients, numbers: np.ndarray, ranks: Ranks) -> int:
    """The request of this rank, before anything moves. numbers: rates and decays, float64 (2, groups)."""
    if gradients.fault is not None:
        return FAULT
    if ranks.size == 1:
        return 0
    # 0.0 is added since -0.0 is another pattern of bits for the same rate
    alike = (numbers + 0.0).tobytes() + np.array(gradients.missing, dtype=np.int64).tobytes()
    return FAULT + 1 + int.from_bytes(hashlib.blake2b(alike, digest_size=HASH).digest(), "little")


def of_voter(requests: np.ndarray) -> int:
    """The request of a voter, by those of its ranks."""
    interrupt, own = INTERRUPT if requests.max() >= INTERRUPT else 0, requests % INTERRUPT
    if (own == FAULT).any():
        return interrupt + FAULT
    return interrupt + (int(own[0]) if (own == own[0]).all() else DIFFERING)


def refuse(requests: np.ndarray, gradients: Gradients, numbers: np.ndarray, ranks: Ranks, t: int) -> None:
    """Raises on all ranks, before x moves, a fault of any rank, or UsageError for what differs between ranks.

    requests: of all voters, (n,). t: the step.
    """
    requests = requests % INTERRUPT
    if (requests == FAULT).any():
        ranks.agree(gradients.fault)
    if (requests == requests[0]).all() and requests[0] != DIFFERING:
        return
    mine = [gradients.layout.segments[k].name for k in gradients.missing]
    everyone = ranks.allgather((numbers.tolist(), mine), "learning rates and missing gradients")
    if differing := numbers_that_differ([rates for rates, _ in everyone]):
        raise UsageError(
            f"at step {t} {differing}; every rank must take the same step: give schedulers numbers that are the same "
            "on all ranks, such as a loss averaged over them (ReduceLROnPlateau), and step them equally often",
            agreed=True,
        )
    missing = [names for _, names in everyone]
    name = next(name for names in missing for name in names if not all(name in others for others in missing))
    lacking = [rank for rank, names in enumerate(missing) if name in names]
    raise UsageError(
        f"parameter {name!r} has no gradient on rank(s) {lacking}, but on others it has; in a step "
        "every rank must use the same parameters",
        agreed=True,
    )


def numbers_that_differ(everyone: Sequence[Sequence[Sequence[float]]]) -> str:
    """The first rate or decay that is not alike, with its values and their ranks; "" if all are.

    everyone: of each rank, rates and decays of its groups.
    """
    for which, what in enumerate(("lr", "weight_decay")):
        for group in range(len(everyone[0][which])):
            values = [rates[which][group] for rates in everyone]
            if len(set(values)) > 1:
                return f"{what} of parameter group {group} is {by_value(values)}"
    return ""
