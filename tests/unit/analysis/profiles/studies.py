"""Made-up IsoFLOP studies of a law whose optima are known."""

from __future__ import annotations

import numpy as np
import pandas as pd

E, A, B, ALPHA, BETA = 1.80, 450.0, 2000.0, 0.345, 0.365
EXPONENT = BETA / (ALPHA + BETA)  # 0.5141
BUDGETS = (1e18, 4e18, 1.6e19, 6.4e19)


def loss_at(n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
    """The law."""
    return np.asarray(E + A / n**ALPHA + B / d**BETA)


def best_size(compute: np.ndarray | float) -> np.ndarray:
    """N* with C = 6 N D."""
    factor = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return np.asarray(factor * (np.asarray(compute) / 6) ** EXPONENT)


def study(
    sizes: int = 7,
    *,
    budgets: tuple[float, ...] = BUDGETS,
    spread: float = 16.0,
    noise: float = 0.0,
    seed: int = 0,
    used: tuple[float, ...] = (1.0,),
) -> pd.DataFrame:
    """Runs at sizes about the optimum; `used`: what they used of their budget, in turn."""
    c = np.repeat(budgets, sizes)
    n = best_size(c) * np.tile(np.geomspace(spread**-0.5, spread**0.5, sizes), len(budgets))
    compute = c * np.resize(used, len(c))
    d = compute / 6 / n
    draw = np.random.default_rng(seed).standard_normal(len(c))
    loss = loss_at(n, d) * np.exp(noise * draw)
    columns = {"budget": c, "compute": compute, "parameters": n, "tokens": d, "loss": loss}
    return pd.DataFrame(columns)
