"""`python -m cola.evaluation.harness ARGUMENTS`: as `lm_eval ARGUMENTS`, knowing the model."""

import sys

from cola.errors import ColaError
from cola.evaluation.harness.command import run

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except ColaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
