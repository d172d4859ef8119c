"""How well `exchange = "auto"` predicts and picks: python analysis/studies/predictions.py runs/wire/exchange-*.h5"""

import argparse
from statistics import median

import h5py
import numpy as np

CLOSE = 1.15  # of the best that was measured


def points(path):
    """(d, {exchange: ms}, {exchange: error}, the pick) of each size in a file of `mpisign bench exchange`."""
    with h5py.File(path) as file:
        table = {name: data[()] for name, data in file["exchanges"].items()}
    for d in np.unique(table["d"]):
        here = table["d"] == d
        names = [name.decode() for name in table["exchange"][here]]
        measured = dict(zip(names, table["ms"][here], strict=True))
        errors = dict(zip(names, table["error"][here], strict=True))
        picked = [name for name, mark in zip(names, table["auto"][here], strict=True) if mark]
        yield int(d), measured, errors, picked[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    errors, close, rows = [], [], []
    for path in sorted(parser.parse_args().files):
        for d, measured, wrong, picked in points(path):
            best = min(measured, key=measured.get)
            errors += [abs(e) for e in wrong.values()]
            close.append(measured[picked] <= CLOSE * measured[best])
            name = path.rpartition("/")[2].removeprefix("exchange-").removesuffix(".h5")
            loss = measured[picked] / measured[best] - 1
            rows.append(
                f"| {name} | {d:,} | {picked} | {best} | {loss:+.0%} | {median(map(abs, wrong.values())):.0%} |"
            )
    print("| where | d | picked | best measured | slower | median error of predictions |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\nPredictions: {len(errors)}, median error {median(errors):.0%}. ", end="")
    print(f"Picks within 15% of the best measured: {sum(close)} of {len(close)} ({np.mean(close):.0%}).")


if __name__ == "__main__":
    main()
