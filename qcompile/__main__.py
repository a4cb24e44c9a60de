"""The command where no script of that name is on the path: `python -m qcompile`."""

from qcompile.cli import main

main()
