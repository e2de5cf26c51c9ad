"""An action that ends in an outage is tried again, with a word before each pause."""

import pytest

from maitre.processes.outages import LONGEST_PAUSE_S, is_outage, wait_out_outages


class Flaky:
    """Ends in an outage `times` times, then gives its number of calls."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error or ConnectionError("refused\nby 127.0.0.1")
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return self.calls


def test_it_is_called_until_it_answers_and_each_pause_is_reported() -> None:
    reports: list[str] = []
    pauses: list[float] = []
    found = wait_out_outages(Flaky(7), limit_s=1e6, report=reports.append, sleep=pauses.append)
    assert found == 8
    assert len(reports) == len(pauses) == 7
    assert all(report.startswith("refused: next try in ") for report in reports)
    assert max(pauses) <= LONGEST_PAUSE_S < 20


def test_another_error_ends_it_at_once() -> None:
    broken = Flaky(3, ValueError("a wrong input"))
    with pytest.raises(ValueError, match="a wrong input"):
        wait_out_outages(broken, limit_s=1e6, report=print, sleep=lambda _: None)
    assert broken.calls == 1


def test_the_limit_ends_it_with_the_outage_itself() -> None:
    with pytest.raises(ConnectionError, match="refused"):
        wait_out_outages(Flaky(9), limit_s=0.0, report=print, sleep=lambda _: None)


def test_a_check_ends_the_waiting() -> None:
    class LostError(Exception):
        """Another worker has the run."""

    checks = iter([None, None, LostError()])

    def check() -> None:
        if error := next(checks):
            raise error

    flaky = Flaky(9)
    with pytest.raises(LostError):
        wait_out_outages(flaky, limit_s=1e6, report=print, check=check, sleep=lambda _: None)
    assert flaky.calls == 2


def test_an_error_that_an_outage_led_to_is_one() -> None:
    error = ValueError()
    assert not is_outage(error)
    error.__cause__ = ConnectionError()
    assert is_outage(error)
