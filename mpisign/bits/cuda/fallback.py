"""The way over the host, for what is rare on a GPU: tensors go there, are worked on, and come back."""

from torch import Tensor

from mpisign.bits import host

__all__ = [
    "add", "agreement", "codes", "differing", "gather", "randomised_majority", "spread", "uniforms",
    "weighted_majority",
]  # fmt: skip


def _over_the_host(name):
    def work(*arguments):
        on_host = [a.cpu() if isinstance(a, Tensor) else a for a in arguments]
        result = getattr(host, name)(*on_host)
        for one, other in zip(arguments, on_host, strict=True):
            if isinstance(one, Tensor):
                one.copy_(other)
        return result

    work.__name__ = name
    return work


add = _over_the_host("add")
agreement = _over_the_host("agreement")
codes = _over_the_host("codes")
count = _over_the_host("count")
differing = _over_the_host("differing")
gather = _over_the_host("gather")
randomised_majority = _over_the_host("randomised_majority")
spread = _over_the_host("spread")
uniforms = host.uniforms
weighted_majority = _over_the_host("weighted_majority")
