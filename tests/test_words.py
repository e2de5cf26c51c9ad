"""Text that a user can see uses plain words."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("assets", "benchmarks", "examples", "maitre", "pipelines", "resources", "sensors")
AVOIDED = re.compile(
    r"(?<![Tt]here )\b(is none|are none|is told|are told(?! apart)|was told|were told|so-manieth"
    r"|as it was|as they were|is no(?= )(?! longer))\b"
)
"""Phrases that must be read twice; CONTRIBUTING.md has plain words for them."""

# fmt: off
IMPERATIVES = frozenset(
    (
        "Accept", "Add", "Answer", "Apply", "Ask", "Bind", "Bring", "Build", "Call", "Cancel",
        "Carry", "Chain", "Change", "Check", "Choose", "Claim", "Close", "Cluster", "Compare",
        "Complain", "Complete", "Compute", "Connect", "Convert", "Copy", "Count", "Create",
        "Credit", "Deal", "Decide", "Delete", "Design", "Divide", "Do", "Double", "Download",
        "Drain", "Draw", "Drop", "Encode", "End", "Evaluate", "Execute", "Extend", "Fill", "Find",
        "Fit", "Fix", "Free", "Give", "Go", "Handle", "Hash", "Hold", "Integrate", "Interpolate",
        "Interrupt", "Keep", "Kill", "Launch", "Leave", "Let", "List", "Load", "Lock", "Log",
        "Look", "Lower", "Make", "Mark", "Materialise", "Measure", "Merge", "Move", "Note", "Open",
        "Parse", "Pass", "Place", "Plan", "Print", "Put", "Queue", "Raise", "Read", "Rebuild",
        "Record", "Refuse", "Register", "Reject", "Release", "Remove", "Rename", "Render", "Renew",
        "Repeat", "Replace", "Replay", "Report", "Retry", "Return", "Route", "Run", "Sample", "Say",
        "Score", "Scrape", "Send", "Serve", "Set", "Show", "Silence", "Simulate", "Solve", "Stack",
        "Start", "Stop", "Store", "Submit", "Summarise", "Switch", "Tag", "Take", "Terminate",
        "Tokenise", "Train", "Tune", "Unload", "Unpack", "Use", "Validate", "Verify", "Wait",
        "Write", "Yield",
    )
)
# fmt: on
"""The verbs that docstrings of functions begin with; add yours if it is one."""


@pytest.mark.parametrize("room", ROOMS)
def test_strings_and_docstrings_use_plain_words(room: str) -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno}: {match[0]}"
        for file in sorted((REPOSITORY / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in AVOIDED.finditer(" ".join(node.value.split()))
    ]
    assert found == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_functions_docstring_says_what_it_does(room: str) -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for file in sorted((REPOSITORY / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        if (text := ast.get_docstring(node)) is not None
        if text.split()[0].rstrip(",;:.") not in IMPERATIVES
    ]
    assert found == []
