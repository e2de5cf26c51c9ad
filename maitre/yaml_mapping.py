"""The YAML files that people write: a mapping of texts to values, or one error."""

from typing import Any

import yaml

from maitre.errors import UserError


def parse_mapping(text: str, where: str, error: type[UserError] = UserError) -> dict[str, Any]:
    """Return the mapping that a YAML document holds; an empty document is an empty mapping.

    Raises:
        error: the text is not YAML, is nested too deeply, or holds something else; the message
            names `where`, and the line if it is known.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as found:
        mark = found.problem_mark or found.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(found.problem or found.context).split())
        raise error(f"{where}{line}: not YAML: {problem[:200]}") from found
    except yaml.YAMLError as found:
        raise error(f"{where}: not YAML: {' '.join(str(found).split())[:200]}") from found
    except RecursionError:
        raise error(f"{where}: not YAML: it is nested too deeply") from None
    except ValueError as found:
        # A date such as 2024-02-30, or a number of thousands of digits.
        raise error(f"{where}: not YAML: {' '.join(str(found).split())[:200]}") from found
    document = {} if document is None else document
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        found_kind = type(document).__name__
        raise error(f"{where}: expected lines of the form `field: value`; got {found_kind}")
    return document
