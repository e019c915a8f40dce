"""`python -m weightspace`: the command line."""

from weightspace.cli.main import main

main()
