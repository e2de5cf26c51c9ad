"""Adam (Kingma & Ba 2015, algorithm 1) as a pure step, so that its whole state can be stored."""

from dataclasses import dataclass

import torch

_DECAY_MEAN = 0.9
_DECAY_SQUARE = 0.999
_EPSILON = 1e-8


@dataclass(frozen=True)
class AdamState:
    """Running means of the gradient and of its square, and the steps taken."""

    mean: torch.Tensor
    square: torch.Tensor
    steps: int

    @classmethod
    def fresh(cls, like: torch.Tensor) -> "AdamState":
        """Return the state before the first step."""
        return cls(torch.zeros_like(like), torch.zeros_like(like), 0)


def adam_step(
    values: torch.Tensor, gradient: torch.Tensor, state: AdamState, learning_rate: float
) -> tuple[torch.Tensor, AdamState]:
    """Return the values after one step down the gradient, and the next state."""
    steps = state.steps + 1
    mean = _DECAY_MEAN * state.mean + (1 - _DECAY_MEAN) * gradient
    square = _DECAY_SQUARE * state.square + (1 - _DECAY_SQUARE) * gradient.square()
    unbiased_mean = mean / (1 - _DECAY_MEAN**steps)
    unbiased_square = square / (1 - _DECAY_SQUARE**steps)
    step = learning_rate * unbiased_mean / (unbiased_square.sqrt() + _EPSILON)
    return values - step, AdamState(mean, square, steps)
