"""`mpisign evaluate`: measures the point that a run kept."""

from pathlib import Path

import click

POINT = "The point; by default the one that run.keep says, or the last one where a checkpoint has that one not yet."
ELSEWHERE = "For data that lie elsewhere now: problem.path, problem.test_path; or run.device, run.threads."


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--which", type=click.Choice(["last", "best", "uniform"]), help=POINT)
@click.option("settings", "--set", multiple=True, metavar="TABLE.KEY=VALUE", help=ELSEWHERE)
def evaluate_command(run, which, settings):
    """Measures loss and accuracy of the parameters that the run in the file RUN kept, as the run itself measured them.

    They lie in NAME.model beside NAME.h5, by run.keep, or in the newest checkpoint while the run is not complete. Six
    digits are shown, and all of them where they are not those that the run told.
    """
    from mpisign.results import evaluate
    from mpisign.run.trained import NOTHING, SAME
    from mpisign.storage.reader import summary_lines

    figures = evaluate(run, which, settings)
    known = {name: value for name, value in figures.items() if value == value}  # not NaN
    if figures["recorded"] in (SAME, NOTHING):
        known = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in known.items()}
    for line in summary_lines(known):
        click.echo(line)
