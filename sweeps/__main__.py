"""`python -m sweeps`: the `cola` command."""

from sweeps.cli import main

if __name__ == "__main__":
    main()
