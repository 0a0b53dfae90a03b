"""`python -m cola`: the `cola` command, which packages above this one make."""

import runpy

if __name__ == "__main__":
    runpy.run_module("sweeps", run_name="__main__")
