"""Groups of commands whose help is told in full, options that some share, errors that list what is valid."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import click

from mpisign import plugins
from mpisign.errors import choices, did_you_mean
from mpisign.paths import job_file

WIDTH = 110  # columns of help, where the terminal has as many


class Commands(click.Group):
    """A group that shows the whole first sentence of each command, and its commands where one is unknown."""

    def __init__(self, *args, **kwargs):
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
        super().__init__(*args, context_settings=settings, **kwargs)

    def format_commands(self, ctx, formatter):
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx, args):
        if args[0] not in self.commands and not args[0].startswith("-"):
            known = f"commands are: {choices(self.commands)}"
            raise click.UsageError(f"unknown command {args[0]!r}{did_you_mean(args[0], self.commands)}; {known}", ctx)
        return super().resolve_command(ctx, args)


class JobFile(click.Path):
    """The file of a job, given by its path or by the name of one that comes with mpisign."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value, param, ctx):
        return job_file(super().convert(value, param, ctx))


def explain(error: click.ClickException) -> click.ClickException:
    """The error, with the options that there are where one is unknown."""
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [o for p in error.ctx.command.get_params(error.ctx) if isinstance(p, click.Option) for o in p.opts]
        near = did_you_mean(error.option_name, known)
        text = f"unknown option {error.option_name}{near}; options are: {choices(known)}"
        return click.UsageError(text, error.ctx)
    return error


def several(*options: Callable) -> Callable:
    """A decorator that adds options, which help lists in this order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


def with_help(group: click.Group) -> None:
    """Gives a group and its commands the help that they lack where Python drops docstrings."""
    for command in (group, *group.commands.values()):
        command.help = command.help or plugins.docstring(command.callback)
        if command is not group and isinstance(command, click.Group):
            with_help(command)
