"""`python -m node` is `tropea`.  Floor 6."""

from node.cli import main

main(prog_name="tropea")
