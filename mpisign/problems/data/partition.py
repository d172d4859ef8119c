"""Which rows each rank owns. Every row belongs to exactly one rank, and no rank is empty."""

import numpy as np

from mpisign.errors import UsageError

KINDS = ("iid", "labels", "dirichlet", "sorted")
TRIES = 1000


def partition(
    kind: str,
    rows: int,
    classes: np.ndarray | None,
    ranks: int,
    generator: np.random.Generator,
    *,
    alpha: float = 0.3,
    labels: int = 2,
    min_rows: int = 1,
) -> list[np.ndarray]:
    """Row numbers of every rank, each sorted.

    kind: "iid", shuffled and cut into equal parts; "sorted", by class and then cut, so that a rank sees as few
    classes as possible; "labels", k = `labels` classes a rank, dealt round robin; "dirichlet", each class split
    over the ranks by proportions from Dirichlet(alpha), drawn again until each has `min_rows` [Hsu et al. 2019,
    arXiv:1909.06335, as commonly used].
    classes: integers (rows,), needed by all kinds but "iid".
    Raises UsageError if the rows can't be dealt out so.
    """
    if ranks * min_rows > rows:
        raise UsageError(
            f"{rows} rows can't give {min_rows} to each of {ranks} ranks; use at most {rows // min_rows} ranks"
            + (", or lower partition.min_rows" if min_rows > 1 else "")
        )
    if kind != "iid" and classes is None:
        raise UsageError(f'partition.kind = "{kind}" needs classes, which this problem has not; use "iid"')
    order = generator.permutation(rows)
    if kind == "iid":
        parts = np.array_split(order, ranks)
    elif kind == "sorted":
        parts = np.array_split(order[np.argsort(classes[order], kind="stable")], ranks)
    elif kind == "labels":
        parts = _by_labels(order, classes, ranks, labels)
    else:
        parts = _dirichlet(order, classes, ranks, generator, alpha, min_rows)
    return [np.sort(p) for p in parts]


def _by_labels(order, classes, ranks, labels):
    count = int(classes.max()) + 1
    if not 1 <= labels <= count or ranks * labels < count:
        raise UsageError(
            f"partition.labels = {labels}: {count} classes over {ranks} ranks need from {-(-count // ranks)} "
            f"to {count} a rank, or some class has no owner"
        )
    owners = [[r for r in range(ranks) for i in range(labels) if (r * labels + i) % count == c] for c in range(count)]
    parts: list[list] = [[] for _ in range(ranks)]
    for c, owning in enumerate(owners):
        for r, rows in zip(owning, np.array_split(order[classes[order] == c], len(owning)), strict=True):
            parts[r].append(rows)
    dealt = [np.concatenate(p) for p in parts]
    if not all(map(len, dealt)):
        raise UsageError(f"partition.labels = {labels}: too few rows of a class to give each of {ranks} ranks one")
    return dealt


def _dirichlet(order, classes, ranks, generator, alpha, min_rows):
    by_class = [order[classes[order] == c] for c in np.unique(classes)]
    for _ in range(TRIES):
        shares = generator.dirichlet([alpha] * ranks, len(by_class))
        cuts = [(np.cumsum(s)[:-1] * len(rows)).astype(int) for s, rows in zip(shares, by_class, strict=True)]
        pieces = [np.split(rows, cut) for rows, cut in zip(by_class, cuts, strict=True)]
        parts = [np.concatenate(p) for p in zip(*pieces, strict=True)]
        if min(map(len, parts)) >= min_rows:
            return parts
    raise UsageError(
        f"partition.alpha = {alpha}: no draw of {TRIES} gave each of {ranks} ranks {min_rows} rows; "
        "raise alpha, or lower partition.min_rows or the number of ranks"
    )
