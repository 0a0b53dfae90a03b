"""The project's models in EleutherAI's lm-evaluation-harness, as its model type `cola`.

Importing this package registers it. The released harness (up to 0.4.13) knows its own models only
and has no plugins, so `lm_eval --model cola` fails there; `cola lm-eval --model cola` and
`python -m cola.evaluation.harness --model cola` are the same command with the model registered
first. Later versions have plugins: for them pyproject.toml declares the entry point
`lm_eval.models`.
"""

import importlib.util

from cola.errors import SpecError

if importlib.util.find_spec("lm_eval") is None:
    raise SpecError(
        "lm-eval: the package is not installed; pip install 'cola-scaling[harness]', or lm-eval"
    )

from cola.evaluation.harness.command import run
from cola.evaluation.harness.lm import ColaLM

__all__ = ["ColaLM", "run"]
