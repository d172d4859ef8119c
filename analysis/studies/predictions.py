"""How well `exchange = "auto"` predicts and picks, from files of `mpisign bench exchange`.

python analysis/studies/predictions.py runs/wire/exchange-*.h5
"""

import argparse
from pathlib import Path
from statistics import median

import h5py
import numpy as np

CLOSE = 1.15  # of the best that was measured


def points(path: Path):
    """(d, {exchange: ms}, [error of each prediction], the pick) of each size in a file."""
    with h5py.File(path) as file:
        table = {name: data[()] for name, data in file["exchanges"].items()}
    names = np.array([name.decode() for name in table["exchange"]])
    for d in np.unique(table["d"]):
        rows = table["d"] == d
        measured = dict(zip(names[rows], table["ms"][rows], strict=True))
        yield int(d), measured, abs(table["error"][rows]), names[rows & (table["auto"] == b"*")][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    errors, close = [], []
    print("| where | d | picked | best measured | slower | median error of predictions |\n|---|---|---|---|---|---|")
    for path in sorted(parser.parse_args().files):
        for d, measured, wrong, picked in points(path):
            best = min(measured, key=measured.get)
            slower = measured[picked] / measured[best]
            errors += list(wrong)
            close.append(slower <= CLOSE)
            where = path.stem.removeprefix("exchange-")
            print(f"| {where} | {d:,} | {picked} | {best} | {slower - 1:+.0%} | {median(wrong):.0%} |")
    print(f"\nPredictions: {len(errors)}, median error {median(errors):.0%}. ", end="")
    print(f"Picks within 15% of the best measured: {sum(close)} of {len(close)} ({sum(close) / len(close):.0%}).")


if __name__ == "__main__":
    main()
