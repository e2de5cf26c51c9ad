"""What a Kubernetes server does to the objects it holds: selects, merges, says who owns what."""

import copy
from typing import Any

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def selected(text: str) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in text.split(",") if part)
    return {key: value.lstrip("=") for key, value in pairs}


def matches(document: dict, wanted: dict[str, str]) -> bool:
    labels = document["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def first_to_go(pod: dict) -> tuple[bool, int, bool, int]:
    """A ReplicaSet's order of removal: no node, then by phase, not ready, cheap to delete."""
    conditions = pod["status"].get("conditions", [])
    ready = any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)
    cost = pod["metadata"].get("annotations", {}).get(DELETION_COST, "0")
    phase = ["Pending", "Unknown", "Running"].index(pod["status"]["phase"])
    return "nodeName" in pod["spec"], phase, ready, int(cost)


def merged(there: dict, change: dict) -> dict:
    made = copy.deepcopy(there)
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made[key] = copy.deepcopy(value)
    return made


def owners(document: dict) -> dict[str, set[str]]:
    entries = document["metadata"].get("managedFields", [])
    return {entry["manager"]: set(entry["fieldsV1"]) for entry in entries}


def own(document: dict, manager: str, fields: set[str]) -> None:
    held = owners(document)
    for other in held:
        held[other] -= fields
    held[manager] = held.get(manager, set()) | fields
    document["metadata"]["managedFields"] = [
        {"manager": name, "fieldsV1": {key: {} for key in sorted(owned)}}
        for name, owned in held.items()
    ]


def value_at(document: dict, field: str) -> Any:
    value: Any = document
    for part in field.split("."):
        value = (value or {}).get(part)
    return value
