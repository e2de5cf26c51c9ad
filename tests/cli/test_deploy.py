"""`maitre deploy render`: the cluster's part of a deployment by options."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from maitre.cli.main import app
from maitre.errors import UserError
from tests.tiny_plans import tiny_plan

runner = CliRunner()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(tiny_plan({"a": {"x": 1.0}, "b": {"y": 1.0}}).to_json())
    return path


def render(plan: Path, out: Path, *options: str) -> str:
    result = runner.invoke(
        app, ["deploy", "render", str(plan), "--out", str(out), *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_image_namespace_claim_and_model_id_are_options(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--image", "my/vllm:1", "--namespace", "prod", "--claim", "loras")
    render(plan, out, *options, "--model-id", "tiny=org/tiny")
    deployment, service = yaml.safe_load_all((out / "vllm-a.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "my/vllm:1"
    assert "--model=org/tiny" in pod["containers"][0]["args"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "loras"
    assert deployment["metadata"]["namespace"] == service["metadata"]["namespace"] == "prod"
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--namespace", "Prod"), "--namespace: expected lower-case letters"),
        (("--claim", "a/b"), "--claim: expected lower-case letters"),
        (("--model-id", "other=x"), "expected a base model of the plan, tiny; got other"),
        (("--model-id", "tiny"), "--model-id: expected BASE_MODEL=ID"),
        (("--format", "docker"), "--format: expected one of manifests"),
    ],
)
def test_a_wrong_option_is_one_error_and_writes_nothing(
    plan: Path, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    with pytest.raises(UserError, match=word):
        render(plan, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_what_a_changed_plan_no_longer_needs_is_removed_with_a_word(
    plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    render(plan, out)
    (out / "mine.txt").write_text("kept")
    plan.write_text(tiny_plan({"b": {"x": 0.5, "y": 1.0}, "c": {"x": 0.5}}).to_json())
    printed = render(plan, out)
    assert f"removed {out / 'vllm-a.yaml'}: the plan no longer needs it" in printed
    assert f"left {out / 'mine.txt'}: it was not rendered here" in printed
    assert sorted(path.name for path in out.glob("vllm-*")) == ["vllm-b.yaml", "vllm-c.yaml"]


@pytest.mark.parametrize(
    "command",
    [("render", "--out", "OUT"), ("local", "--adapters", "OUT", "--dry-run")],
    ids=["render", "local"],
)
def test_a_plan_that_fails_its_check_is_deployed_with_unsafe_alone(
    plan: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    document = json.loads(plan.read_text())
    document["evidence"] = {**document.get("evidence", {}), "servers_failed": {"a": "starves"}}
    plan.write_text(json.dumps(document))
    name, *options = [str(tmp_path / "out") if part == "OUT" else part for part in command]
    with pytest.raises(UserError, match=r"the plan fails its check \(a: starves\).*--unsafe"):
        runner.invoke(app, ["deploy", name, str(plan), *options], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
    if name == "render":
        render(plan, tmp_path / "out", "--unsafe")
        assert (tmp_path / "out" / "vllm-a.yaml").is_file()
