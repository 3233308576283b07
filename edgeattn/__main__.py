"""``python -m edgeattn``: the command line."""

from edgeattn.cli import main

main()
