import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from maitre.serving.manifests.kubernetes import DeploymentOptions
from maitre.serving.manifests.operators import FORMATS, render_as
from tests.k8s.crd_schemas import errors_of
from tests.tiny_plans import LIMITS, tiny_plan

ADAPTERS = "model-adapters.yaml"

PLAN = tiny_plan(
    {"s": {"a": 1.0, "Hot_1": 0.5}, "t": {"Hot_1": 0.5}},
    replace(LIMITS, max_lora_rank=12),
    base_model="llama",
)


def documents(files: dict[str, str], name: str) -> list[dict]:
    return list(yaml.safe_load_all(files[name]))


def aibrix_pods(files: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the labels of each server's pods that AIBrix's controller considers."""
    found = {}
    for name, text in files.items():
        if name.startswith("vllm-"):
            template = next(yaml.safe_load_all(text))["spec"]["template"]
            assert "--lora-modules" not in template["spec"]["containers"][0]["args"]
            labels = template["metadata"]["labels"]
            if "model.aibrix.ai/name" in labels:
                assert labels["adapter.model.aibrix.ai/enabled"] == "true"
                found[name.removesuffix(".yaml")] = labels
    return found


def test_aibrix_loads_each_adapter_on_exactly_the_pods_of_its_servers() -> None:
    files = render_as("aibrix", PLAN, DeploymentOptions())
    pods = aibrix_pods(files)
    assert sorted(pods) == ["vllm-s", "vllm-t"]
    names = json.loads(files["adapter-names.json"])
    adapters = {
        d["metadata"]["annotations"]["maitre/adapter"]: d for d in documents(files, ADAPTERS)
    }
    assert adapters.keys() == names.keys() == {"a", "Hot_1"}
    for adapter, servers in {"a": {"vllm-s"}, "Hot_1": {"vllm-s", "vllm-t"}}.items():
        document = adapters[adapter]
        # The controller reads nothing but matchLabels; without replicas it loads on all that match.
        assert document["spec"]["podSelector"].keys() == {"matchLabels"}
        wanted = document["spec"]["podSelector"]["matchLabels"].items()
        assert {name for name, labels in pods.items() if wanted <= labels.items()} == servers
        assert "replicas" not in document["spec"]
        assert document["metadata"]["name"] == names[adapter]
        assert document["metadata"]["labels"]["model.aibrix.ai/name"] == names[adapter]
    assert ADAPTERS in documents(files, "kustomization.yaml")[0]["resources"]


ODD = ("a:b", "x/y@v2", "überraschung", "1e5", "A" * 200, "a_b", "a-b")


@pytest.mark.parametrize(
    ("operator", "file", "count"),
    [("aibrix", ADAPTERS, 7), ("production-stack", "lora-adapters.yaml", 8)],
)
def test_every_object_passes_its_operators_schema(
    operator: str, file: str, count: int, shared_data: Path
) -> None:
    held = dict.fromkeys(ODD, 1.0)
    plan = tiny_plan({"s": held | {"a:b": 0.5}, "t": {"a:b": 0.5}}, base_model="Org/L 3")
    custom = documents(render_as(operator, plan, DeploymentOptions()), file)
    assert len(custom) == count
    names = [document["metadata"]["name"] for document in custom]
    assert len(set(names)) == len(names)
    for document in custom:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])
        for value in document["metadata"]["labels"].values():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)
        assert errors_of(document, shared_data.parent / "crds") == []


def test_a_field_that_the_operator_does_not_know_is_an_error(shared_data: Path) -> None:
    [document, *_] = documents(render_as("aibrix", PLAN, DeploymentOptions()), ADAPTERS)
    document["spec"]["replica"] = 1
    [error] = errors_of(document, shared_data.parent / "crds")
    assert "replica" in error


def test_the_production_stack_gets_one_model_per_server() -> None:
    files = render_as("production-stack", PLAN, DeploymentOptions())
    models = documents(files, "values.yaml")[0]["servingEngineSpec"]["modelSpec"]
    assert [model["name"] for model in models] == ["vllm-s", "vllm-t"]
    assert "--max-lora-rank=16" in models[0]["vllmConfig"]["extraArgs"]
    adapters = documents(files, "lora-adapters.yaml")
    assert {d["spec"]["baseModel"] for d in adapters} == {"vllm-s", "vllm-t"}
    for model in models:
        [volume], [mount] = model["extraVolumes"], model["extraVolumeMounts"]
        assert volume["name"] == mount["name"]
        assert volume["persistentVolumeClaim"]["claimName"] == "maitre-adapters"
        assert all(
            d["spec"]["adapterSource"]["adapterPath"].startswith(mount["mountPath"])
            for d in adapters
        )
        assert model["hf_token"] == {"secretName": "maitre-hub-token", "secretKey": "token"}


def test_helm_values_keep_shares() -> None:
    values = documents(render_as("helm", PLAN, DeploymentOptions()), "values.yaml")[0]
    assert values["routes"]["Hot_1"] == {"vllm-s": 0.5, "vllm-t": 0.5}


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="production-stack"):
        render_as("docker", PLAN, DeploymentOptions())
    assert set(FORMATS) == {"manifests", "aibrix", "production-stack", "helm"}
