"""Sources: the user's files, observed so that a change of theirs makes what follows stale."""

import dagster as dg

from resources.inputs import Inputs
from resources.language_model import LanguageModel


@dg.observable_source_asset(group_name="inputs")
def task_files(inputs: Inputs) -> dg.DataVersion:
    """The folder of tuning tasks: one folder each, with `task.yaml`, train and eval examples."""
    return dg.DataVersion(inputs.tasks_fingerprint())


@dg.observable_source_asset(group_name="inputs")
def base_model(language_model: LanguageModel) -> dg.DataVersion:
    """The frozen language model that prompts are tuned for."""
    return dg.DataVersion(language_model.fingerprint())


@dg.observable_source_asset(group_name="inputs")
def adapter_file(inputs: Inputs) -> dg.DataVersion:
    """The adapter catalogue as the user keeps it: adapter, base model, rank, request rate."""
    return dg.DataVersion(inputs.adapters_fingerprint())


@dg.observable_source_asset(group_name="inputs")
def profile_files(inputs: Inputs) -> dg.DataVersion:
    """The shipped server profiles and the one that the settings choose."""
    from maitre.twin import ServerProfile

    chosen = ServerProfile.load(inputs.profile)
    shipped = [ServerProfile.load(name).fingerprint() for name in ServerProfile.names()]
    return dg.DataVersion("-".join(f[:8] for f in [chosen.fingerprint(), *shipped]))
