"""The MPI in use in pytest's header; on ranks above root, silence except for failures; slow tests on demand."""

import os
import sys
from pathlib import Path

# before anything imports Triton: without a GPU its kernels run under an interpreter
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_report_header(config):
    if not config.getoption("--with-mpi", default=False):
        return "mpi: not started (serial tests; see tests/run_parallel.py for the others)"
    from mpi4py import MPI

    return f"mpi: {MPI.get_vendor()}, {MPI.COMM_WORLD.Get_size()} ranks, {len(os.sched_getaffinity(0))} cores"


def pytest_sessionstart(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and int(os.environ.get("PMI_RANK", 0)) and session.config.getoption("--with-mpi", default=False):
        reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115


def pytest_runtest_logreport(report):
    rank = os.environ.get("PMI_RANK", "0")
    if report.failed and rank != "0":
        sys.__stderr__.write(f"rank {rank}: {report.nodeid} failed\n{report.longreprtext}\n")
        sys.__stderr__.flush()
