"""`python -m nnexp` is `nnexp`."""

from nnexp.cli import main

main()
