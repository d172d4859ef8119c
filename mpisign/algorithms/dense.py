"""What sends raw floats beside votes or before them: parameters that are averaged, and a dense warm start."""

from dataclasses import replace

from mpisign.algorithms.compressed import MaskedMomentum
from mpisign.algorithms.formats import RAW
from mpisign.algorithms.method import Algorithm, Method, Phases, Stages
from mpisign.algorithms.signs import Raw
from mpisign.algorithms.slots import Update
from mpisign.algorithms.updates import RawDescent, Sgd
from mpisign.algorithms.votes import Mean
from mpisign.errors import UsageError
from mpisign.layout import Layout


def averaged(algorithm: Algorithm, factor: float = 1.0) -> Algorithm:
    """The same estimates, averaged as raw floats, and x moved along their mean.

    That is SGD with the algorithm's momentum, where it has one behind the vote or in its sign rule, else descent.

    factor: on the learning rate. Raises UsageError for an algorithm whose estimates are not meant to be averaged.
    """
    if algorithm.sign.up() == RAW:
        return algorithm
    if algorithm.estimator.agrees:
        raise UsageError(
            f"{algorithm.name} can't average parameters densely: its voters agree on means of their own "
            f"({type(algorithm.estimator).__name__}) before they send; leave [dense] out"
        )
    if not algorithm.estimator.averages:
        raise UsageError(
            f"{algorithm.name} can't average some parameters densely: what its estimator "
            f"({type(algorithm.estimator).__name__}) makes is of use only to its own vote; let all parameters vote"
        )
    if algorithm.update.needs:
        raise UsageError(
            f"{algorithm.name} can't average some parameters densely: its update ({type(algorithm.update).__name__}) "
            "decides about all of x at once; let all parameters vote"
        )
    return replace(algorithm, sign=Raw(), vote=Mean(), update=_update_of_means(algorithm, factor))


def _update_of_means(algorithm: Algorithm, factor: float) -> Update:
    update, sign, decay = algorithm.update, algorithm.sign, getattr(algorithm.update, "weight_decay", 0.0)
    if isinstance(update, Sgd):
        return replace(update, factor=factor)
    if isinstance(sign, MaskedMomentum) and sign.momentum:
        return Sgd(sign.momentum, decay, sign.nesterov, factor)
    return RawDescent(decay, factor)


def with_averaging(algorithm: Method, factor: float = 1.0) -> Method:
    """The algorithm, which averages densely what does not vote.

    Raises UsageError as averaged(), and for an algorithm whose stages differ in their slots.
    """
    if isinstance(algorithm, Phases):
        return algorithm.with_stages(tuple(with_averaging(stage, factor) for stage in algorithm.stages), algorithm.name)
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"{algorithm.name} has stages of its own, in which all parameters travel alike")
    return replace(algorithm, dense=averaged(algorithm, factor))


def warm_start(algorithm: Method, steps: int, factor: float = 1.0) -> Stages:
    """The algorithm after `steps` steps in which all estimates are averaged densely.

    The estimator's arrays go along, and those of an update that both have.

    Raises UsageError as averaged(), and for an algorithm that has stages of its own.
    """
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"{algorithm.name} has stages of its own; leave out the dense warm start")
    if algorithm.sign.up() == RAW:
        raise UsageError(f"{algorithm.name} sends raw floats anyway; a dense warm start changes nothing, leave it out")
    first = averaged(algorithm, factor)
    if algorithm.dense:
        first = replace(first, dense=algorithm.dense)
    arrays = [*algorithm.estimator.init(Layout({"x": (1,)})), *algorithm.estimator.tables]
    names = [f"estimator/{name}" for name in arrays]
    if isinstance(algorithm.update, Sgd):
        names += ["update/m", *(["averaged/m"] if algorithm.dense else [])]
    return Stages(first, algorithm, tuple((name, name) for name in names), algorithm.name, until=steps)
