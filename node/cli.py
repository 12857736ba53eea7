"""The command `tropea`: a group whose subcommands come from the entry-point group `tropea.commands`.  Floor 6.

It does not know what subcommands there are.  A package that cannot be imported costs its own command and no other:
that one is listed as unavailable, with the reason.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

COMMANDS: Final = "tropea.commands"
"""Entry-point group: name = "module:command", a click command."""


class UnavailableCommand(click.Command):
    """Stands where a subcommand could not be loaded, takes any arguments and says why it does nothing."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            name,
            help=f"unavailable: {reason}",
            short_help=f"unavailable: {reason}",
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        self._reason = reason

    def invoke(self, ctx: click.Context) -> None:
        raise click.ClickException(f"`tropea {self.name}` is unavailable: {self._reason}")


def load(entry: EntryPoint) -> click.Command:
    """The command behind `entry`, or an UnavailableCommand in its place."""
    try:
        command = entry.load()
    except Exception as error:  # noqa: BLE001  # importing runs somebody else's code, which may raise anything
        return UnavailableCommand(entry.name, " ".join(f"{type(error).__name__}: {error}".split()))
    if not isinstance(command, click.Command):
        return UnavailableCommand(entry.name, f"{entry.value} is no click command")
    return command


class EntryPointGroup(click.Group):
    """Looks a command up when it is asked for: one command does not pay for importing the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := super().get_command(ctx, cmd_name):
            return own
        found = sorted(entry_points(group=COMMANDS, name=cmd_name), key=lambda entry: entry.value)
        if len(found) > 1:
            claims = " and ".join(entry.value for entry in found)
            return UnavailableCommand(cmd_name, f"{claims} both want this name")
        return load(found[0]) if found else None


@click.group(cls=EntryPointGroup, invoke_without_command=True)
@click.version_option(package_name="tropea")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Onion routing for py-ipv8, in pure Python.

    A circuit carries datagrams through up to six relays.  Each relay knows its two neighbours and nothing else; every
    datagram between two nodes is 1350 encrypted bytes, whatever it means.

    \b
    From Python (README.md shows the whole program):
        community.build_tunnels(3)
        community.tunnel_data(circuit, ("192.0.2.1", 53), "data", question)

    \b
    Read on, in the source tree:
        docs/protocol.md     what is on the wire, and what this does not defend against
        ARCHITECTURE.md      where everything is
        make demo            see it work on this machine

    Packages add subcommands under the entry-point group `tropea.commands`.
    """  # noqa: D301  # click reads the backspace itself
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
