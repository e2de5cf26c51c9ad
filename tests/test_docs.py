"""What the documents name is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NAMED = re.findall(
    r"`(tests/[\w/]+\.py)::(\w+)`", (REPOSITORY / "docs" / "invariants.md").read_text()
)
DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "docs" / "concepts").glob("*.md"),
]
# Labels, and names that a recipe leaves to the reader.
PLACEHOLDER = r"^maitre/(base-model|tenant)$|NAME|MODEL"
FOLDERS = ("maitre/", "assets/", "resources/", "sensors/", "pipelines/", "tests/", "benchmarks/")


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_the_test_of_each_invariant_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (REPOSITORY / file).read_text()


def test_the_invariants_are_numbered_without_a_gap() -> None:
    text = (REPOSITORY / "docs" / "invariants.md").read_text()
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(NAMED) + 1))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_link_of_a_document_exists(document: Path) -> None:
    text = document.read_text()
    paths = [p for p in re.findall(r"`([\w./-]+)`", text) if p.startswith(FOLDERS)]
    missing = [
        path
        for path in paths
        if not re.search(PLACEHOLDER, path) and not (REPOSITORY / path).exists()
    ]
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing += [
        link
        for link in links
        if link and "://" not in link and not (document.parent / link).exists()
    ]
    assert missing == []
