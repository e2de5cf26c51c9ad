"""Run pods get the image of the code locations, whatever an overlay calls it."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import K8S, Documents, of_kind, pods, render


def run_images(documents: Documents) -> set[str]:
    """What the code locations say that their image is."""
    return {
        entry["value"]
        for _, _, spec in pods(documents)
        for container in spec["containers"]
        for entry in container.get("env", [])
        if entry["name"] == "DAGSTER_CURRENT_IMAGE"
    }


def images(documents: Documents, *but: str) -> set[str]:
    """The images of all pods but some."""
    return {
        container["image"]
        for name, _, spec in pods(documents)
        for container in spec["containers"]
        if name not in but
    }


@pytest.mark.parametrize(
    ("overlay", "image"), [("local", "maitre:0.1.0"), ("gpu", "maitre:0.1.0-gpu")]
)
def test_run_pods_get_the_overlays_image(overlay: str, image: str) -> None:
    documents = render(K8S / "overlays" / overlay)
    assert run_images(documents) == images(documents, "postgres") == {image}


def test_the_documented_overlay_renames_every_image(tmp_path: Path) -> None:
    text = (K8S.parent / "docs/kubernetes.md").read_text()
    [snippet] = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        if "kind: Kustomization" in block
    ]
    kustomization = yaml.safe_load(snippet)
    kustomization["resources"] = [os.path.relpath(K8S / "overlays/gpu", tmp_path)]
    kustomization["components"] = [os.path.relpath(K8S / "components/seed", tmp_path)]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = render(tmp_path)
    renamed = {"registry.example/team/maitre:1.4"}
    assert run_images(documents) == images(documents, "postgres") == renamed
    # The same replacements as in the base: what is added there is missing nowhere.
    base = yaml.safe_load((K8S / "base/kustomization.yaml").read_text())
    gpu = yaml.safe_load((K8S / "overlays/gpu/kustomization.yaml").read_text())
    assert kustomization["replacements"] == gpu["replacements"] == base["replacements"]
    assert of_kind(documents, "Job")
