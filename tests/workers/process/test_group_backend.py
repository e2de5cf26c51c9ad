"""How the workers of a run add up: on the CPU, wherever the model is."""

from types import SimpleNamespace
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from maitre.tuning.config import TuneConfig
from maitre.workers.process.group import lead


def test_a_group_whose_model_is_on_a_gpu_adds_up_through_gloo() -> None:
    inputs: Any = SimpleNamespace(
        task=SimpleNamespace(name="task", fingerprint=lambda: "f"),
        model=SimpleNamespace(hash="h", device=torch.device("cuda")),
        config=TuneConfig(),
        init=None,
        seed=1,
        tenant=None,
    )

    def give_up(why: str) -> NoReturn:
        raise AssertionError(why)

    with lead(
        inputs,
        address="127.0.0.1",
        size=1,
        checkpoint=None,
        publish=lambda _: True,
        give_up=give_up,
    ):
        assert dist.get_backend() == "gloo"
