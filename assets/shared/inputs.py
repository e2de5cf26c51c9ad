"""The user's inputs as assets, so that a changed input makes the assets after it stale.

These assets copy nothing. To materialise one reads its files and records the hash of their content
as the data version. Each job begins with the inputs that it depends on.
"""

import dagster as dg

from assets.serving.measured_profiles import kind_of
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.language_model import LanguageModel

OWNERS = ["team:ml-platform"]
"""The owners of all assets, as Dagster shows them."""


def _version(version: str, **metadata: str) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=metadata)


@dg.asset(group_name="inputs", kinds={"jsonl"}, owners=OWNERS, code_version="1")
def task_files(inputs: Inputs) -> dg.MaterializeResult:
    """Hash the tuning tasks: a folder per task, with `task.yaml`, train and eval examples."""
    return _version(inputs.task_source().fingerprint(), folder=inputs.tasks)


@dg.asset(group_name="inputs", kinds={"huggingface"}, owners=OWNERS, code_version="1")
def base_model(language_model: LanguageModel) -> dg.MaterializeResult:
    """Hash the frozen language model that prompts are tuned for."""
    return _version(language_model.fingerprint(), path_or_id=language_model.path_or_id)


@dg.asset(group_name="inputs", kinds={"csv"}, owners=OWNERS, code_version="1")
def adapter_file(inputs: Inputs) -> dg.MaterializeResult:
    """Hash the user's adapter catalogue: adapter, base model, rank, request rate."""
    return _version(inputs.adapters_fingerprint(), file=inputs.adapters)


@dg.asset(group_name="inputs", kinds={"yaml"}, owners=OWNERS, code_version="1")
def profile_files(inputs: Inputs, home: DataHome) -> dg.MaterializeResult:
    """Hash the shipped server profiles and the one that the settings choose."""
    from maitre.twin import ServerProfile

    shipped = {name: ServerProfile.load(name).fingerprint() for name in ServerProfile.names()}
    measured = home.has_fitted_profile(kind_of(inputs.profile))
    # A server that was measured here may have a name without a shipped profile or file.
    chosen = (
        shipped.get(inputs.profile, inputs.profile)
        if measured
        else ServerProfile.load(inputs.profile).fingerprint()
    )
    version = "-".join(fingerprint[:8] for fingerprint in [chosen, *shipped.values()])
    return _version(version, chosen=inputs.profile)
