"""Where a command finds the bank and a task: as asked, else by the settings."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maitre.settings import Settings


def bank_url(settings: "Settings", bank: str | None) -> str:
    """Return the requested bank, or the data home's bank of the base model in the settings."""
    from maitre.home_files import HomeFiles
    from maitre.tuning.model_folder import model_folder
    from maitre.tuning.weights_hash import tokenizer_hash, weights_hash

    if bank is not None:
        return bank
    folder = model_folder(settings.base_model)
    return HomeFiles(settings.home).bank_url(weights_hash(folder), tokenizer_hash(folder))


def task_folder(settings: "Settings", task: str) -> Path:
    """Return the folder of a task: a path, or a name in the tasks folder of the settings."""
    return Path(task) if Path(task).is_dir() else Path(settings.tasks) / task
