"""A ReFrame test of a system: votes of a job's tasks send the bits that they should, at a bandwidth that is reported.

reframe -C SITE.py -c slurm/reframe_mpisign.py -r -S num_tasks=8 -S mpisign=$PWD/.venv/bin/mpisign
"""

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import parameter, performance_function, run_before, sanity_function, variable

# bits per coordinate that a rank sends, by exchange, for n ranks
FORMULAS = {"sharded": lambda n: 2 * (n - 1) / n, "allgather": lambda n: n - 1}
HEADERS = 100  # bytes that headers may add to each of at most 2(n - 1) messages of a rank


@rfm.simple_test
class Exchange(rfm.RunOnlyRegressionTest):
    """Steps without their gradient of signsgd-mv, by one exchange."""

    descr = "mpisign: votes of all tasks"
    valid_systems = ["*"]  # noqa: RUF012
    valid_prog_environs = ["*"]  # noqa: RUF012
    num_tasks = 4

    exchange = parameter(list(FORMULAS))
    mpisign = variable(str, value="mpisign")
    coordinates = variable(int, value=1_000_000)

    @run_before("run")
    def set_command(self):
        self.executable = self.mpisign
        self.executable_opts = ["bench", "exchange", "--exchange", self.exchange, "-d", str(self.coordinates)]

    def column(self, name):
        """A number of the one row of the table that the command prints."""
        lines = sn.evaluate(sn.extractall(r"^\|(.*)\|$", self.stdout, 1))
        sn.evaluate(sn.assert_eq(len(lines), 3, "no table of one exchange was printed; see the errors of the job"))
        head, _, row = ([cell.strip() for cell in line.split("|")] for line in lines)
        return float(row[head.index(name)].replace(",", ""))

    @sanity_function
    def sends_its_bits(self):
        """All tasks voted as one job, and sent what the formula says, and headers."""
        bits = FORMULAS[self.exchange](self.num_tasks)
        headers = 2 * (self.num_tasks - 1) * 8 * HEADERS / self.coordinates
        return sn.all(
            [
                sn.assert_eq(self.column("n"), self.num_tasks, "the launcher started {0} ranks together, not {1}"),
                sn.assert_bounded(self.column("bits"), bits, bits + headers),
            ]
        )

    @performance_function("Mbit/s")
    def bandwidth(self):
        """What a rank sent in a step, over the median of its time."""
        return self.column("bits") * self.coordinates / (self.column("ms") * 1e3)

    @performance_function("ms")
    def step(self):
        """The median of a step, until the last rank is done."""
        return self.column("ms")
