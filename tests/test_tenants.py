"""One tenant never reaches what is another's, at any interface."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from benchmarks.tenants import ATTEMPTS, OWNER, RIVALS, prepare
from maitre.bank.bank import PromptBank
from maitre.errors import UserError
from maitre.tenants import TENANT_TAG, may_use, owner_of_prompts, registered_name
from maitre.tuning.export import import_prompt
from resources.wiring import resources
from tests.test_docs import REPOSITORY


@pytest.mark.slow
def test_another_tenant_fails_at_every_interface(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        scene = prepare(tmp_path, instance)
        _carries_the_tenant(scene)
        made: dict[str, list[str]] = {
            name: [tenant for tenant in (*RIVALS, OWNER) if attempt(scene, tenant)]
            for name, attempt in ATTEMPTS.items()
        }
    # The owner succeeds at each, so an attempt that fails does so because of the tenant.
    assert made == {name: [OWNER] for name in ATTEMPTS}


def _carries_the_tenant(scene: Any) -> None:
    """Entry, record, MLflow run, version and exported file say whose they are."""
    [folder] = (Path(scene.settings.home) / "bank").iterdir()
    bank = PromptBank.load(folder)
    assert [entry.tenant for entry in bank] == [OWNER]
    assert [record.tenant for record in bank.history] == [OWNER]
    client = resources(scene.settings)["mlflow"].store().client()
    [version] = client.search_model_versions()
    assert version.name == f"tuned-prompt-first~{OWNER}"
    assert version.tags[TENANT_TAG] == OWNER
    assert client.get_run(version.run_id).data.tags[TENANT_TAG] == OWNER
    assert import_prompt(scene.exported).tenant == OWNER


def test_the_document_names_every_interface_that_is_tried() -> None:
    text = (REPOSITORY / "docs" / "tenants.md").read_text().split("## What is tried")[1]
    assert re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE) == list(ATTEMPTS)


def test_the_default_tenants_prompts_are_public_and_every_others_are_private() -> None:
    assert owner_of_prompts(None) is owner_of_prompts("default") is None
    assert owner_of_prompts("acme") == "acme"
    for tenant in (None, "default", "acme", "rival"):
        assert may_use(None, tenant)
        assert may_use("acme", tenant) == (tenant == "acme")


@pytest.mark.parametrize("tenant", ["", " ", "t" * 201], ids=["empty", "blank", "long"])
def test_a_name_that_is_none_is_refused(tenant: str) -> None:
    with pytest.raises(UserError, match="tenant"):
        owner_of_prompts(tenant)


def test_no_two_tenants_share_a_registered_model() -> None:
    tenants = [None, "acme", "ACME", "a", "a/b", "a:b", "a b", "ä", "a~b", "~a", "a" * 100, "x.y"]
    names = [registered_name(f"tuned-prompt-{task}", t) for task in ("a", "a-b") for t in tenants]
    assert len(set(names)) == len(names)
    # What MLflow refuses in a name, or reads as an alias or a version.
    assert not re.search(r"[/:@%\s]", json.dumps(names).replace(", ", ""))
