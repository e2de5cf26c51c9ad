"""Who owns the assets, as Dagster shows it."""

OWNERS = ["team:ml-platform"]
