"""`python -m mpisign`: the command line, where the script `mpisign` is not at hand."""

from mpisign.cli import main

if __name__ == "__main__":
    main()
