"""The learned capacity model: what a server sustains, in microseconds.

Boosted trees correct the fluid steady state (`maitre.maxpack.fluid`) for what averages do not know:
fluctuations of load and lengths, waiting for slots, preemption. CatBoost fits them
(`maitre.maxpack.fit`); predicting needs no CatBoost (`maitre.maxpack.trees`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from maitre.checksums import check_digest, check_seal, digest_of, sealed
from maitre.errors import reading
from maitre.files import replacing_folder
from maitre.maxpack.calibration import Calibration, ResidualBand
from maitre.maxpack.card import FORMAT, MaxpackError, ModelCard
from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.inputs import FEATURES, feature_matrix
from maitre.maxpack.options import ServerOptions
from maitre.maxpack.targets import CLASSIFIERS, REGRESSORS, log_shortfall, reference_tps
from maitre.maxpack.trees import ObliviousTrees

_FILES = ("card.json", "trees.safetensors")
TRAINING_ROWS = "training_rows"


@dataclass(frozen=True)
class MaxpackModel:
    """Predicts throughput, latency and the risk of an unhealthy server for sets of adapters.

    `trees` by target; `bands` around the regressors' estimates; `priors` (what the classifiers
    start from: the expected throughput says who starves, the expected latency who is unhealthy) and
    `calibrations` of the classifiers. `training_rows` are the hashes of the traces that the model
    was trained on (`maitre.maxpack.split`): no score may use those.
    """

    card: ModelCard
    trees: dict[str, ObliviousTrees]
    calibrations: dict[str, Calibration]
    bands: dict[str, ResidualBand]
    priors: dict[str, Calibration]
    training_rows: np.ndarray

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return predictions for rows with the columns `maitre.maxpack.inputs.FEATURES`.

        Columns: `offered_tps`, `throughput_tps` with `throughput_p05_tps` and
        `throughput_p95_tps`, `ttft_p99_ms` (the worst adapter's) with `ttft_p99_high_ms`,
        `itl_mean_ms`, `starved_probability` (the papers' rule), `risk` (that the server or one of
        its adapters is unhealthy), `out_of_memory`.
        """
        x = frame[list(FEATURES)].to_numpy(dtype=np.float64)
        oom = x[:, FEATURES.index("kv_cache_tokens")] <= 0
        log_ttft = self.trees["ttft"].raw(x)
        log_throughput = self.trees["throughput"].raw(x)
        throughput = self._band("throughput", log_throughput, x)
        throughput *= reference_tps(x)[:, None]
        ttft = self._band("ttft", log_ttft, x)
        offered = x[:, FEATURES.index("offered_tps")]
        columns = {
            "offered_tps": offered,
            "throughput_tps": np.minimum(throughput[:, 1], 1.05 * offered),
            "throughput_p05_tps": throughput[:, 0],
            "throughput_p95_tps": throughput[:, 2],
            "ttft_p99_ms": ttft[:, 1],
            "ttft_p99_high_ms": ttft[:, 2],
            "itl_mean_ms": np.exp(self.trees["itl"].raw(x)),
            "starved_probability": self._probability(
                "starved", x, log_shortfall(x, log_throughput)
            ),
            "risk": self._risk(x, log_ttft),
        }
        result = pd.DataFrame(columns, index=frame.index)
        result.loc[oom, ["throughput_tps", "throughput_p05_tps", "throughput_p95_tps"]] = 0.0
        result.loc[oom, ["starved_probability", "risk"]] = 1.0
        return result.assign(out_of_memory=oom)

    def predict_one(self, features: np.ndarray) -> tuple[float, float]:
        """Return throughput (tokens/s) and risk of one configuration, features (1, FEATURES).

        The same as `predict` without its frame and its other columns, and faster.
        """
        throughput = np.exp(self.trees["throughput"].raw(features)[0])
        reference = float(reference_tps(features)[0])
        return float(throughput) * reference, float(self._risk(features)[0])

    def risk(self, sets: SetSums, options: ServerOptions, rows: np.ndarray) -> np.ndarray:
        """Return the probability that each set is unhealthy on option `rows[i]`."""
        return self.risk_of(sets, options, rows, fluid_features(sets, options, rows))

    def risk_of(
        self, sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
    ) -> np.ndarray:
        """Return what `risk` does, from the steady state of each set."""
        x = feature_matrix(sets, options, rows, fluid)
        return np.where(options.kv_cache_tokens[rows] > 0, self._risk(x), 1.0)

    def save(self, folder: str | Path) -> None:
        """Write the model as `trees.safetensors` and `card.json`; the folder appears whole."""
        folder = Path(folder)
        with replacing_folder(folder) as made:
            arrays: dict[str, np.ndarray] = {TRAINING_ROWS: self.training_rows}
            for name, trees in self.trees.items():
                arrays |= trees.arrays(name)
            save_file(arrays, str(made / "trees.safetensors"))
            document = {
                "trees_sha256": digest_of((made / "trees.safetensors").read_bytes()),
                "card": asdict(self.card),
                "features": list(FEATURES),
                "calibrations": {k: v.to_dict() for k, v in self.calibrations.items()},
                "priors": {k: v.to_dict() for k, v in self.priors.items()},
                "bands": {k: v.to_dict() for k, v in self.bands.items()},
            }
            (made / "card.json").write_text(json.dumps(sealed(document), indent=2))

    @classmethod
    def load(cls, folder: str | Path) -> MaxpackModel:
        """Read a model back.

        Raises:
            MaxpackError: a file is missing, cannot be read, or is of another format.
        """
        folder = Path(folder)
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise MaxpackError(f"{folder} holds no capacity model: {', '.join(missing)} missing")
        with reading(folder / "card.json", MaxpackError):
            document = json.loads((folder / "card.json").read_text())
        try:
            known = document["card"].get("format") == FORMAT
            if not known or document["features"] != list(FEATURES):
                raise MaxpackError(f"{folder} is of another format; fit the model again")
            check_seal(document, str(folder / "card.json"), MaxpackError)
            trees = folder / "trees.safetensors"
            found = digest_of(trees.read_bytes())
            check_digest(document.get("trees_sha256"), found, str(trees), MaxpackError)
            arrays = load_file(trees)
            return cls(
                ModelCard(**document["card"]),
                {n: ObliviousTrees.from_arrays(n, arrays) for n in (*REGRESSORS, *CLASSIFIERS)},
                {k: Calibration.from_dict(v) for k, v in document["calibrations"].items()},
                {k: ResidualBand.from_dict(v) for k, v in document["bands"].items()},
                {k: Calibration.from_dict(v) for k, v in document["priors"].items()},
                arrays[TRAINING_ROWS],
            )
        except (KeyError, TypeError, SafetensorError) as error:
            raise MaxpackError(f"{folder} holds no readable capacity model: {error}") from error

    def _band(self, name: str, middle: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the 5 % quantile, the estimate and the 95 % quantile: (rows, 3)."""
        return np.exp(self.bands[name].around(middle, x[:, FEATURES.index("fill")]))

    def _risk(self, x: np.ndarray, log_ttft: np.ndarray | None = None) -> np.ndarray:
        if log_ttft is None:
            log_ttft = self.trees["ttft"].raw(x)
        return self._probability("unhealthy", x, log_ttft - np.log(self.card.ttft_slo_ms))

    def _probability(self, name: str, x: np.ndarray, guess: np.ndarray) -> np.ndarray:
        raw = self.trees[name].raw(x)
        return self.calibrations[name].probability(raw + self.priors[name].log_odds(guess))
