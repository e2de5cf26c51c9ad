"""Custom objects against the schemas of their operators, with unknown fields refused."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml


def errors_of(document: dict[str, Any], schemas: Path) -> list[str]:
    """Return what a folder of CustomResourceDefinitions says against an object."""
    group, _, version = document["apiVersion"].partition("/")
    known = {
        file.name: (strict(served["schema"]["openAPIV3Schema"]), served)
        for file in sorted(schemas.glob("*.yaml"))
        if f"group: {group}" in file.read_text()
        for definition in yaml.safe_load_all(file.read_text())
        if definition and definition.get("kind") == "CustomResourceDefinition"
        if definition["spec"]["group"] == group
        if definition["spec"]["names"]["kind"] == document["kind"]
        for served in definition["spec"]["versions"]
        if served["name"] == version
    }
    assert known, f"no schema for {document['kind']} of {document['apiVersion']}"
    found: list[str] = []
    for name, (schema, served) in known.items():
        if served.get("deprecated"):
            found.append(f"{name}: {document['apiVersion']} is deprecated")
        schema["properties"]["metadata"] = {"type": "object"}
        errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
        found += [f"{name}: {error.json_path}: {error.message}" for error in errors]
    return found


def strict(schema: Any) -> Any:
    """Return the schema with unknown fields refused, where it does not keep them itself."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    keeps = made.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(made.get("properties"), dict) and not keeps:
        made.setdefault("additionalProperties", False)
    return made
