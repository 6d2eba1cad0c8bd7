"""`python -m nightproof` is the command `nightproof`."""

from nightproof.cli.main import main

main()
