import json
from dataclasses import replace

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maitre.placement.plan import PlacementPlan
from maitre.serving.manifests.kubernetes import (
    DeploymentOptions,
    render,
    resource_name,
    routes,
    server_arguments,
)
from maitre.twin.limits import buffer_rank
from maitre.twin.profile import ServerProfile
from tests.tiny_plans import LIMITS, tiny_plan


def plan() -> PlacementPlan:
    return tiny_plan(
        {"server-0": {"a": 1.0, "hot": 0.25}, "server-1": {"hot": 0.75}},
        replace(LIMITS, max_loras=8, max_cpu_loras=16, max_lora_rank=12),
        base_model="llama-3.1-8b-instruct",
        profile="h100-64gb/llama-3.1-8b-instruct",
    )


def documents(files: dict[str, str]) -> list[dict]:
    return [
        document
        for name, text in files.items()
        if name.startswith("vllm-")
        for document in yaml.safe_load_all(text)
    ]


def test_every_document_is_valid_for_kubernetes() -> None:
    found = documents(render(plan(), DeploymentOptions()))
    assert [d["kind"] for d in found] == ["Deployment", "Service"] * 2
    for document in found:
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_image_and_model_are_those_of_each_servers_profile() -> None:
    shipped = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
    engine = shipped.engine.model_copy(update={"vllm_version": "0.19.1", "image": ""})
    mine = shipped.model_copy(update={"name": "l40s/mine", "engine": engine})
    first, second = plan().servers
    mixed = replace(plan(), servers=(first, replace(second, profile="l40s/mine")))
    options = DeploymentOptions(profiles=[mine, *ServerProfile.shipped()])
    pods = [
        document["spec"]["template"]["spec"]["containers"][0]
        for document in documents(render(mixed, options))
        if document["kind"] == "Deployment"
    ]
    assert [pod["image"] for pod in pods] == [
        "vllm/vllm-openai:v0.8.5",
        "vllm/vllm-openai:v0.19.1",
    ]
    assert {pod["args"][0] for pod in pods} == {"--model=meta-llama/Llama-3.1-8B-Instruct"}


def test_options_override_the_profiles_image_and_model() -> None:
    options = DeploymentOptions(image="mine:1", model_ids={"llama-3.1-8b-instruct": "me/llama"})
    pod = documents(render(plan(), options))[0]["spec"]["template"]["spec"]["containers"][0]
    assert pod["image"] == "mine:1"
    assert pod["args"][0] == "--model=me/llama"


def test_selectors_match_labels_and_ports_match_probes() -> None:
    deployment, service = documents(render(plan(), DeploymentOptions()))[:2]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    container = pod["spec"]["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert {m["name"] for m in container["volumeMounts"]} == {
        v["name"] for v in pod["spec"]["volumes"]
    }


def test_the_user_has_a_name_and_a_home_that_can_be_written() -> None:
    """No image has an entry for the user's id, and torch asks for its name."""
    deployment = documents(render(plan(), DeploymentOptions()))[0]
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["USER"] == environment["LOGNAME"] == "vllm"
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert not mounts[environment["HOME"]].get("readOnly")
    assert spec["enableServiceLinks"] is False


def test_the_server_gets_the_planned_flags_and_adapters() -> None:
    arguments = server_arguments(plan().servers[0], DeploymentOptions())
    assert "--max-loras=8" in arguments
    assert "--max-lora-rank=16" in arguments, "vLLM has no buffers for rank 12"
    assert "--max-cpu-loras=16" in arguments
    modules = arguments[arguments.index("--lora-modules") + 1 :]
    assert modules == ["a=/adapters/a", "hot=/adapters/hot"]


def test_routes_keep_each_adapters_shares() -> None:
    table = json.loads(render(plan(), DeploymentOptions())["routes.json"])
    assert table == routes(plan())
    assert table["hot"] == {"vllm-server-0": 0.25, "vllm-server-1": 0.75}


def test_the_kustomization_lists_every_file() -> None:
    files = render(plan(), DeploymentOptions())
    listed = yaml.safe_load(files["kustomization.yaml"])["resources"]
    assert set(listed) == {name for name in files if name.startswith("vllm-")}


@pytest.mark.slow
@given(st.lists(st.text(min_size=1, max_size=80), min_size=2, max_size=8, unique=True))
def test_resource_names_are_distinct_dns_labels(names: list[str]) -> None:
    made = [resource_name(name) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert len(name) <= 63
        assert name.isascii()
        assert name.strip("-") == name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_rank_that_vllm_cannot_serve_is_an_error() -> None:
    assert buffer_rank(8) == 8
    assert buffer_rank(33) == 64
    with pytest.raises(ValueError, match="rank 1000"):
        buffer_rank(1000)
