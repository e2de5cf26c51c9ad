"""`maitre deploy render`: the cluster's part of a deployment by options."""

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
