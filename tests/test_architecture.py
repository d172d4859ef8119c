"""The rooms: who may import whom and what, and one table of papers."""

import ast
import subprocess
import sys

import pytest

from mpisign.algorithms import zoo
from mpisign.algorithms.registry import REGISTRY, algorithm
from tests.running import BIN, ROOT
from tests.table import TABLE

assert zoo  # its functions enter the registry

ROOMS = {
    "mpi4py": ("mpisign/parallel/mpi.py", "mpisign/exchange/", "mpisign/bench/"),
    "h5py": ("mpisign/storage/", "mpisign/problems/data/readers/hdf5.py"),
    "click": ("mpisign/cli/",),
    "matplotlib": ("mpisign/figures/",),
    "jinja2": ("mpisign/figures/report.py",),
}
SOURCES = sorted((ROOT / "mpisign").rglob("*.py"))


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_imports_go_downwards():
    ended = subprocess.run([BIN / "lint-imports"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library):
    outside = [
        str(file.relative_to(ROOT))
        for file in SOURCES
        if library in imports(ast.parse(file.read_text()))
        and not str(file.relative_to(ROOT)).startswith(ROOMS[library] or "nowhere")
    ]
    assert not outside


def test_the_command_line_alone_imports_figures():
    outside = [
        str(file.relative_to(ROOT))
        for file in SOURCES
        if "mpisign.figures" in file.read_text() and file.parent.name not in ("figures", "cli")
    ]
    assert not outside


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("mpisign.cli", ("torch", "mpi4py", "numba", "pydantic", "h5py", "matplotlib")),
        ("mpisign.storage.reader", ("torch", "mpi4py", "numba")),
        ("mpisign.figures.grid, mpisign.figures.listing", ("torch", "mpi4py", "numba", "matplotlib", "jinja2")),
        ("mpisign.figures.report", ("torch", "mpi4py", "numba", "matplotlib.pyplot")),
    ],
)
def test_what_many_import_imports_little(modules, unwanted):
    code = f"import sys, {modules}; print([m for m in {unwanted} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_files_stay_small():
    programs = [*SOURCES, *(f for folder in ("tests", "analysis", "jobs") for f in (ROOT / folder).rglob("*.py"))]
    assert {f.name: n for f in programs if (n := f.read_text().count("\n")) > 500} == {}


def test_every_entry_has_its_row_in_the_table_of_tests():
    assert set(REGISTRY) == set(TABLE)
    assert all(0 < row.claim.gap < 1 and row.claim.lr > 0 for row in TABLE.values())


def test_every_entry_cites_its_paper():
    for entry in REGISTRY.values():
        assert any(word in entry.paper for word in ("arXiv", "PMLR", "ICLR", "ICNN", "Interspeech", "baseline"))
        assert entry.known.endswith(".")
        assert entry.summary.endswith(".") or "." in entry.summary


def test_a_name_can_be_taken_once():
    with pytest.raises(ValueError, match="in the zoo already"):
        algorithm("signum-mv", paper="", lr=1.0, known="")(lambda: None)
