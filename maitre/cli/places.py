"""Where a command finds the bank and a task: as asked, else by the settings."""

from pathlib import Path

from maitre.errors import UserError


def bank_url(bank: str | None) -> str:
    """The bank that was asked for, or the data home's bank of the base model in the settings."""
    from maitre.home_files import HomeFiles
    from maitre.settings import Settings
    from maitre.tuning.weights_hash import weights_hash

    if bank is not None:
        return bank
    settings = Settings.read()
    if not Path(settings.base_model).is_dir():
        raise UserError(f"base model {settings.base_model} is not a local folder: give --bank")
    return HomeFiles(settings.home).bank_url(weights_hash(Path(settings.base_model)))


def task_folder(task: str) -> Path:
    """The folder of a task: a path to one, or a name in the tasks folder of the settings."""
    from maitre.settings import Settings

    return Path(task) if Path(task).is_dir() else Path(Settings.read().tasks) / task
