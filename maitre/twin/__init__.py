"""The digital twin: predicts what a multi-LoRA vLLM server sustains, far faster than real time."""

from maitre.twin.errors import TwinInputError
from maitre.twin.lengths import Lengths
from maitre.twin.profile import ServerProfile
from maitre.twin.result import LatencySummary, SimulationResult
from maitre.twin.server import ServerConfig
from maitre.twin.simulate import simulate, simulate_many
from maitre.twin.workload import AdapterLoad, Burstiness, Workload

__all__ = [
    "AdapterLoad",
    "Burstiness",
    "LatencySummary",
    "Lengths",
    "ServerConfig",
    "ServerProfile",
    "SimulationResult",
    "TwinInputError",
    "Workload",
    "simulate",
    "simulate_many",
]
