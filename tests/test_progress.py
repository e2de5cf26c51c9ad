import logging

import pytest

from maitre.progress import LoggedProgress, Progress, ignore_progress


def test_progress_is_logged_every_few_seconds_and_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = iter((0.0, 1.0, 5.0, 6.0, 6.1, 6.2))
    progress: Progress = LoggedProgress(
        logging.getLogger("maitre.test"), "runs", every_s=5.0, clock=lambda: next(now)
    )
    with caplog.at_level(logging.INFO, "maitre.test"):
        progress(1, 5)
        progress(2, 5, "loss 0.5")
        progress(3, 5)
        progress(4, 5)
        progress(5, 5)
    assert caplog.messages == ["2 of 5 runs, loss 0.5", "5 of 5 runs"]


def test_progress_can_be_ignored() -> None:
    progress: Progress = ignore_progress
    progress(1, 2, "anything")
