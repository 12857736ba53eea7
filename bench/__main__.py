"""`python -m bench`: the benchmarks of this project, by name."""

from typing import Final

import click

from bench import circuit, endpoint, handshake, relay

BENCHMARKS: Final = (handshake.command, endpoint.command, relay.command, circuit.command)
"""All of them: a new one is a module with a click command, and a line here."""

main: Final = click.Group(
    "bench",
    commands=BENCHMARKS,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Time this project against what bounds it, on this machine.

    Every benchmark times both sides in one run, in turn, and judges by their ratio; a ratio above its target
    makes the command fail.

    \b
    python -m bench handshake                a table to read
    python -m bench handshake --runs 2000    steadier figures
    python -m bench handshake --json         for a machine
    python -m bench relay                    one relay under load, beside py-ipv8's
    python -m bench circuit                  how fast circuits are built, beside py-ipv8's
    """,
)

if __name__ == "__main__":
    main(prog_name="python -m bench")
