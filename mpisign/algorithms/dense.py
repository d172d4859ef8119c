"""What sends raw floats beside votes or before them: parameters that are averaged, and a dense warm start."""

from dataclasses import replace

from mpisign.algorithms.formats import RAW
from mpisign.algorithms.method import Algorithm, Method, Stages
from mpisign.algorithms.signs import Raw
from mpisign.algorithms.updates import RawDescent
from mpisign.algorithms.votes import Mean
from mpisign.errors import UsageError
from mpisign.layout import Layout


def averaged(algorithm: Algorithm, factor: float = 1.0) -> Algorithm:
    """The same estimates, averaged as raw floats, and x moved along their mean.

    factor: on the learning rate. Raises UsageError for an algorithm whose estimates are not meant to be averaged.
    """
    if algorithm.sign.up() == RAW:
        return algorithm
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
    update = RawDescent(getattr(algorithm.update, "weight_decay", 0.0), factor)
    return replace(algorithm, sign=Raw(), vote=Mean(), update=update)


def with_averaging(algorithm: Method, factor: float = 1.0) -> Algorithm:
    """The algorithm, which averages densely what does not vote.

    Raises UsageError as averaged(), and for an algorithm that has stages of its own.
    """
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"{algorithm.name} has stages of its own, in which all parameters travel alike")
    return replace(algorithm, dense=averaged(algorithm, factor))


def warm_start(algorithm: Method, steps: int, factor: float = 1.0) -> Stages:
    """The algorithm after `steps` steps in which all estimates are averaged densely; the estimator's arrays go along.

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
    return Stages(first, algorithm, tuple((name, name) for name in names), algorithm.name, until=steps)
