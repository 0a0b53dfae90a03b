"""What the likelihood at its default settings is off by, for priors whose density is known.

    python -m tests.benchmarks.known_priors

One line a prior: dimensions, codewords, logSNR, the true NLL, the bias of the extrapolated density
and of its two solutions, and of the diffusion's bound with its standard error, in nats a latent.
"""

from __future__ import annotations

import itertools
import math

from cola.likelihood.diffusion_bound import diffusion_bound_by_block
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.unit.likelihood.known_priors import Codewords

SOLVED, DRAWN = 128, 4000


def main() -> None:
    """Print the table."""
    settings = LikelihoodSpec()
    print("  d   K logSNR    true  extrapolated     N    2 N   diffusion's bound")
    for width, words, log_snr in itertools.product((8, 16), (1, 64), (3.0, 4.5, 6.0)):
        prior = Codewords.drawn(width, words, log_snr)
        z0 = prior.sample(SOLVED)
        truth, found = prior.nll(z0), prior.density(z0, settings.ode_steps)
        solutions = (found.extrapolated, found.coarse_Bb, found.fine_Bb)
        biases = [float((-density[:, 0] - truth).mean()) for density in solutions]
        more = prior.sample(DRAWN, seed=2)
        bound = diffusion_bound_by_block(
            prior.velocity,
            more,
            settings.diffusion_times,
            stream=Stream(0, 0, range(DRAWN)),
            block=1,
            scale=prior.scale,
        )
        off = bound[:, 0] - prior.nll(more)
        error = float(off.std()) / math.sqrt(DRAWN)
        shown = " ".join(f"{bias:+.4f}" for bias in biases)
        print(
            f"{width:3} {words:3} {log_snr:6.1f} {float(truth.mean()):7.2f}  {shown}  "
            f"{float(off.mean()):+.3f} ± {error:.3f}"
        )


if __name__ == "__main__":
    main()
