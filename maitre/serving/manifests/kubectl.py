"""Applies rendered manifests to a cluster by server-side apply, through `kubectl`."""

import shutil
import subprocess
from pathlib import Path

from maitre.serving.errors import VllmError

FIELD_MANAGER = "maitre"


def apply_folder(folder: Path, *, dry_run: bool) -> str:
    """Apply a kustomize folder; with `dry_run` what would change, as `kubectl diff` says.

    Raises:
        VllmError: there is no kubectl, no cluster, or the cluster refuses; in one line.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise VllmError("kubectl is not installed; it is what plans are applied to a cluster with")
    verb = ["diff"] if dry_run else ["apply"]
    command = [kubectl, *verb, "--server-side", f"--field-manager={FIELD_MANAGER}"]
    if not dry_run:
        command.append("--force-conflicts=false")
    made = subprocess.run(
        [*command, "-k", str(folder)], capture_output=True, text=True, check=False
    )
    # `kubectl diff` says 1 where something differs.
    if made.returncode not in ((0, 1) if dry_run else (0,)) or (
        dry_run and made.returncode == 1 and not made.stdout
    ):
        lines = [line for line in made.stderr.splitlines() if line.strip()]
        raise VllmError(f"kubectl {verb[0]}: {lines[-1] if lines else 'it failed without a word'}")
    return made.stdout
