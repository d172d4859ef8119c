"""The way over the host, for what is rare on a GPU: tensors go there, are worked on, and come back."""

from torch import Tensor

from mpisign.bits import host

__all__ = [
    "add", "add_chosen", "add_entries", "add_largest", "add_largest_means", "add_quantised", "add_two_means",
    "agreement", "clear_entries", "clear_largest", "codes", "count_ones", "differing_parts", "gather",
    "majority_of_ballots", "pack_chosen", "pack_drawn", "pack_greatest", "pack_largest", "pack_largest_means",
    "pack_quantised", "pack_two_means", "planes_of_largest", "randomised_majority", "spread", "uniforms",
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
add_chosen = _over_the_host("add_chosen")
add_entries = _over_the_host("add_entries")
add_largest = _over_the_host("add_largest")
add_largest_means = _over_the_host("add_largest_means")
add_quantised = _over_the_host("add_quantised")
add_two_means = _over_the_host("add_two_means")
agreement = _over_the_host("agreement")
clear_entries = _over_the_host("clear_entries")
clear_largest = _over_the_host("clear_largest")
codes = _over_the_host("codes")
count = _over_the_host("count")
count_ones = _over_the_host("count_ones")
count_weighted = _over_the_host("count_weighted")
differing_parts = _over_the_host("differing_parts")
gather = _over_the_host("gather")
majority_of_ballots = _over_the_host("majority_of_ballots")
pack_chosen = _over_the_host("pack_chosen")
pack_drawn = _over_the_host("pack_drawn")
pack_greatest = _over_the_host("pack_greatest")
pack_largest = _over_the_host("pack_largest")
pack_largest_means = _over_the_host("pack_largest_means")
pack_quantised = _over_the_host("pack_quantised")
pack_two_means = _over_the_host("pack_two_means")
planes_of_largest = _over_the_host("planes_of_largest")
randomised_majority = _over_the_host("randomised_majority")
spread = _over_the_host("spread")
uniforms = host.uniforms
weighted_majority = _over_the_host("weighted_majority")
