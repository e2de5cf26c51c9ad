"""What the documents name is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml

from benchmarks.__main__ import MODULES
from maitre.cli.main import app

REPOSITORY = Path(__file__).resolve().parent.parent
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:", MAKEFILE, flags=re.MULTILINE)) | {
    name
    for names in re.findall(r"^\.PHONY: (.+)", MAKEFILE, flags=re.MULTILINE)
    for name in names.split()
}


def _named_tests(document: str) -> list[tuple[str, str]]:
    text = (REPOSITORY / "docs" / document).read_text()
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


NAMED = _named_tests("invariants.md")
DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "docs" / "concepts").glob("*.md"),
]
# Labels, and names that a recipe leaves to the reader.
PLACEHOLDER = r"^maitre/(base-model|tenant)$|NAME|MODEL"
FOLDERS = ("maitre/", "assets/", "resources/", "sensors/", "pipelines/", "tests/", "benchmarks/")


@pytest.mark.parametrize(("file", "test"), [*NAMED, *_named_tests("reliability.md")])
def test_the_test_of_each_invariant_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (REPOSITORY / file).read_text()


def test_the_invariants_are_numbered_without_a_gap() -> None:
    text = (REPOSITORY / "docs" / "invariants.md").read_text()
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(NAMED) + 1))


def _modules(top: str) -> Iterator[Path]:
    return (REPOSITORY / top).rglob("*.py")


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
    # A file of Python may be named by the end of its path.
    modules = {str(file.relative_to(REPOSITORY)) for top in FOLDERS for file in _modules(top)}
    missing += [
        name
        for name in re.findall(r"`([\w/]+\.py)`", text)
        if not re.search(PLACEHOLDER, name)
        and not any(f"/{module}".endswith(f"/{name}") for module in modules)
    ]
    assert missing == []


def commands_of(document: Path, program: str) -> list[str]:
    """Return what follows a program's name, in code blocks and in inline code."""
    text = document.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split("   ")[0] for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = (re.match(rf"(?:\$ )?(?:[\w./]*/)?{program} (.+)", line.strip()) for line in lines)
    return [match[1] for match in found if match]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_of_a_document_exists(document: Path) -> None:
    root = typer.main.get_command(app)
    wrong = []
    for line in commands_of(document, "maitre"):
        command = root
        tokens = re.sub(r"[|;#&].*", "", line).split()
        while tokens and (below := getattr(command, "commands", {}).get(tokens[0])):
            command = below
            tokens.pop(0)
        if hasattr(command, "commands") and tokens and re.fullmatch(r"[a-z-]+", tokens[0]):
            wrong.append(line)
        known = {n for p in command.params for n in (*p.opts, *p.secondary_opts)} | {"--help"}
        options = [token.split("=")[0] for token in tokens if token.startswith("--")]
        wrong += [f"{line}: {option}" for option in options if option not in known]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_and_every_benchmark_of_a_document_exists(document: Path) -> None:
    wrong = [
        line for line in commands_of(document, "make") if line.split()[0].strip(",") not in TARGETS
    ]
    named = re.findall(r"python -m benchmarks ([\w-]+)", document.read_text())
    assert wrong + [name for name in named if name not in {*MODULES, "NAME"}] == []


def test_every_command_of_the_workflow_and_the_hooks_exists() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/checks.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"].split() for step in steps if "run" in step]
    assert commands
    for program, argument, *_ in commands:
        assert program in ("make", "bash")
        assert argument in TARGETS if program == "make" else (REPOSITORY / argument).is_file()
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    programs = {hook["entry"].split()[0] for repo in hooks for hook in repo["hooks"]}
    checks = MAKEFILE[MAKEFILE.index("\ncheck:") : MAKEFILE.index("\nformat:")]
    assert {program.replace(".venv/bin", "$(BIN)") for program in programs} == set(
        re.findall(r"\$\(BIN\)/[\w-]+", checks)
    )
