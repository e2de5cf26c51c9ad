"""The two code locations joined: `everything` of one is followed by `serving` of the other."""

import dagster as dg

from pipelines import serving, tuning


def test_sensors_are_on_and_their_jobs_exist() -> None:
    expected = {
        "tuning_scheduler": ("tune", tuning),
        "serving_follows_tuning": ("serving", serving),
    }
    for name, (job, location) in expected.items():
        sensor = location.defs.resolve_sensor_def(name)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert [target.job_name for target in sensor.targets] == [job]
        assert location.defs.resolve_job_def(job).name == job


def test_the_job_that_is_followed_is_one_of_the_tuning_half() -> None:
    assert tuning.defs.resolve_job_def("everything").name == "everything"
    with_everything = [
        location for location in (tuning, serving) if "everything" in names(location.defs)
    ]
    assert with_everything == [tuning]


def names(defs: dg.Definitions) -> set[str]:
    return {job.name for job in defs.resolve_all_job_defs()}
