"""`python -m cola`: the `cola` command, where it is not on the path.

The command mounts the packages above this one, which therefore is run and not imported.
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("sweeps.cli", run_name="__main__")
