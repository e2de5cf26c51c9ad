"""Example tuning tasks, built from facts in data packages: `python -m examples.tasks.build`."""
