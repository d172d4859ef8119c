"""Help of commands where Python drops docstrings."""

import click

from mpisign import plugins


def with_help(group: click.Group) -> None:
    """Gives a group and its commands the help that they lack."""
    for command in (group, *group.commands.values()):
        command.help = command.help or plugins.docstring(command.callback)
        if command is not group and isinstance(command, click.Group):
            with_help(command)
