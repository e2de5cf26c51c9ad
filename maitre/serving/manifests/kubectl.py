"""Apply rendered manifests to a cluster with `kubectl`, server-side."""

import shutil
import subprocess
from pathlib import Path

from maitre.serving.errors import VllmError

FIELD_MANAGER = "maitre"


def apply_folder(folder: Path, *, dry_run: bool) -> str:
    """Apply a kustomize folder and return kubectl's output; with `dry_run`, return the diff.

    Raises:
        VllmError: kubectl is not installed, or the cluster does not answer or refuses.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise VllmError("kubectl: expected it on the PATH; got none; install it to apply a plan")
    verb = ["diff"] if dry_run else ["apply"]
    command = [kubectl, *verb, "--server-side", f"--field-manager={FIELD_MANAGER}"]
    if not dry_run:
        command.append("--force-conflicts=false")
    result = subprocess.run(
        [*command, "-k", str(folder)], capture_output=True, text=True, check=False
    )
    # `kubectl diff` exits with 1 when something differs.
    if result.returncode not in ((0, 1) if dry_run else (0,)) or (
        dry_run and result.returncode == 1 and not result.stdout
    ):
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise VllmError(
            f"kubectl {verb[0]}: {lines[-1] if lines else 'it failed without a message'}"
        )
    return result.stdout
