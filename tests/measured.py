"""A measurement as a real server would have left it, made by the twin: for tests."""

from pathlib import Path

import numpy as np
import pandas as pd

from maitre.serving.measure.samples_folder import Measurement
from maitre.twin import ServerProfile
from maitre.twin.fitting.capacity import server_config
from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.samples import COLUMNS
from maitre.twin.simulate import simulate
from maitre.twin.workload import Workload

SERVER = MeasuredServer(8, 16, 256, 2048, 8192, 200_000)
DURATION_S = 60.0


def load_rows(profile: ServerProfile, slow: float = 1.0, seed: int = 0) -> list[dict]:
    """A validation load whose answers take as long as the twin says, times `slow`."""
    random = np.random.default_rng(seed)
    due = np.sort(random.uniform(0, 55.0, 120))
    trace = pd.DataFrame(
        {"arrival_s": due, "adapter": "a", "input_tokens": 64, "output_tokens": 32}
    )
    workload = Workload.from_trace(trace, ranks=8, duration_s=DURATION_S)
    result = simulate(profile, server_config(SERVER, 1), workload)
    gap_s, first_s = 1e-3 * result.itl_ms.mean * slow, 1e-3 * result.ttft_ms.mean * slow
    made = []
    for at in due:
        chunks = list(at + first_s + gap_s * np.arange(32))
        row = dict.fromkeys(COLUMNS, 0.0) | {
            "point": "v", "kind": "load", "role": "validation", "adapter": "a", "rank": 8,
            "due_s": at, "sent_s": at, "first_token_s": chunks[0], "last_token_s": chunks[-1],
            "end_s": chunks[-1], "chunk_s": chunks, "input_tokens": 64, "output_tokens": 32,
            "asked_tokens": 32, "outcome": "ok", "error": "", "duration_s": DURATION_S,
        }  # fmt: skip
        made.append(row)
    return made


def measured_folder(folder: Path, name: str, slow: float = 1.0, seed: int = 0) -> Path:
    """A measurement of the server of a shipped profile, all of it `slow` times slower."""
    measurement = Measurement(folder)
    about = {"name": name, "engine": "vLLM", "base_model": "tiny", "gpu": "a GPU"}
    measurement.begin(SERVER, about)
    measurement.add(load_rows(ServerProfile.load(name), slow, seed), 0)
    return folder
