"""Writes examples/adapters.csv: 1,000 adapters of one base model, of mixed rank and rate.

Most adapters are cold, a few are hot: rates follow a log-normal law, as tenants' traffic does.

    python examples/build_adapters.py [OUTPUT] [--adapters N] [--seed S]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

BASE_MODEL = "llama-3.1-8b-instruct"
RANKS = (8, 16, 32)
RANK_SHARES = (0.5, 0.35, 0.15)
MEDIAN_RATE_RPS = 0.15
RATE_SIGMA = 1.4
HOTTEST_RPS = 10.0


def build_adapters(adapters: int, seed: int) -> pd.DataFrame:
    """Return a catalogue frame of that many adapters; the same for the same seed."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(np.log(MEDIAN_RATE_RPS), RATE_SIGMA, size=adapters))
    return pd.DataFrame(
        {
            "adapter": [f"tenant-{i:04d}" for i in range(adapters)],
            "base_model": BASE_MODEL,
            "rank": rng.choice(RANKS, size=adapters, p=RANK_SHARES),
            "rate_rps": np.clip(rates, 0.001, HOTTEST_RPS).round(4),
        }
    )


def main() -> None:
    """Write the catalogue named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).with_name("adapters.csv")
    parser.add_argument("output", nargs="?", type=Path, default=default)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    frame = build_adapters(arguments.adapters, arguments.seed)
    frame.to_csv(arguments.output, index=False)
    print(f"{arguments.output}: {len(frame)} adapters, {frame.rate_rps.sum():.1f} requests/s")


if __name__ == "__main__":
    main()
