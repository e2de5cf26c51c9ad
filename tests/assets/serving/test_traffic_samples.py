"""Looks that several processes note at once, and how long they are kept."""

import multiprocessing
from pathlib import Path

from assets.serving.traffic_samples import KEPT_S, SAMPLES, samples_since, store_sample
from maitre.serving.observe import TrafficSample
from resources.data_home import DataHome


def note_many(root: str, first: int) -> None:
    home = DataHome(root=root)
    for look in range(20):
        store_sample(home, TrafficSample(float(first + look), (), {"a": 1.0}), 600.0)


def test_no_look_is_lost_where_two_processes_look(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=note_many, args=(str(tmp_path), first)) for first in (1000, 1020)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    kept = [sample.at_s for sample in samples_since(DataHome(root=str(tmp_path)), 0.0)]
    assert kept == [float(at_s) for at_s in range(1000, 1040)]


def test_the_window_is_given_and_what_is_too_old_is_removed(tmp_path: Path) -> None:
    home = DataHome(root=str(tmp_path))
    times = (0.0, 9.5, KEPT_S - 100.0, KEPT_S + 5.0)
    for at_s in times:
        seen = store_sample(home, TrafficSample(at_s, (), {}), 105.0)
    assert [sample.at_s for sample in seen] == [*times[2:]]
    assert [sample.at_s for sample in samples_since(home, 0.0)] == [*times[1:]]
    longer = store_sample(home, TrafficSample(KEPT_S + 10.0, (), {}), 2 * KEPT_S)
    assert len(longer) == 4, "a longer window keeps more"
    home.files().write_bytes(f"{SAMPLES}/half.json.tmp", b"")
    assert len(samples_since(home, 0.0)) == 4
