"""Write YAML in which every reader finds texts where texts were.

PyYAML follows YAML 1.1 and leaves `1e5` without quotes; kubectl follows YAML 1.2, where that is a
number.
"""

import re
from collections.abc import Iterable
from typing import Any

import yaml

_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")


class _Dumper(yaml.SafeDumper):
    """Quotes texts that are numbers by YAML 1.2 too."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+.0123456789")
)


def dump(document: Any) -> str:
    """Return a document as YAML, its keys in their order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def dump_all(documents: Iterable[Any]) -> str:
    """Return several documents as one YAML text."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False)
