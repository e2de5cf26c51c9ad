from dataclasses import replace

import pytest
import yaml

from maitre.serving.manifests.kubernetes import DeploymentOptions
from maitre.serving.manifests.operators import FORMATS, render_as
from tests.tiny_plans import LIMITS, tiny_plan

PLAN = tiny_plan(
    {"s": {"a": 1.0, "Hot_1": 0.5}, "t": {"Hot_1": 0.5}},
    replace(LIMITS, max_lora_rank=12),
    base_model="llama",
)


def documents(files: dict[str, str], name: str) -> list[dict]:
    return list(yaml.safe_load_all(files[name]))


def test_every_adapter_is_pinned_to_its_servers_pods_for_aibrix() -> None:
    files = render_as("aibrix", PLAN, DeploymentOptions())
    found = documents(files, "model-adapters.yaml")
    assert len(found) == len({d["metadata"]["name"] for d in found}) == 3
    for document in found:
        labels = document["spec"]["podSelector"]["matchLabels"]
        pod = documents(files, f"{labels['app.kubernetes.io/instance']}.yaml")[0]["spec"]
        assert labels.items() <= pod["template"]["metadata"]["labels"].items()
        assert "--lora-modules" not in pod["template"]["spec"]["containers"][0]["args"]
    assert "model-adapters.yaml" in documents(files, "kustomization.yaml")[0]["resources"]


def test_the_production_stack_gets_a_model_a_server() -> None:
    files = render_as("production-stack", PLAN, DeploymentOptions())
    models = documents(files, "values.yaml")[0]["servingEngineSpec"]["modelSpec"]
    assert [model["name"] for model in models] == ["vllm-s", "vllm-t"]
    assert "--max-lora-rank=16" in models[0]["vllmConfig"]["extraArgs"]
    adapters = documents(files, "lora-adapters.yaml")
    assert {d["spec"]["baseModel"] for d in adapters} == {"vllm-s", "vllm-t"}


def test_helm_values_keep_shares() -> None:
    values = documents(render_as("helm", PLAN, DeploymentOptions()), "values.yaml")[0]
    assert values["routes"]["Hot_1"] == {"vllm-s": 0.5, "vllm-t": 0.5}


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="production-stack"):
        render_as("docker", PLAN, DeploymentOptions())
    assert set(FORMATS) == {"manifests", "aibrix", "production-stack", "helm"}
