"""The picture of ARCHITECTURE.md, drawn from the code's imports.

`python -m tests.architecture` writes it; a test holds it to the code.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = REPOSITORY / "ARCHITECTURE.md"
BEGIN, END = "<!-- picture: begin (make architecture) -->", "<!-- picture: end -->"

RINGS = {
    "Dagster and command line": ("pipelines", "sensors", "assets", "resources", "cli"),
    "live": ("workers", "serving", "requests", "tracking", "processes"),
    "domain": ("placement", "maxpack", "twin", "tuning", "bank", "scheduling"),
}
ROOMS = [room for rooms in RINGS.values() for room in rooms]


def rooms_of(imported: str) -> list[str]:
    """Return the room of an imported module; none for other packages and for the foundation."""
    parts = imported.split(".")
    room = parts[1] if parts[0] == "maitre" and len(parts) > 1 else parts[0]
    return [room] if room in ROOMS else []


def imports(file: Path) -> Iterator[str]:
    """Yield every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def edges() -> set[tuple[str, str]]:
    """Return which room imports which."""
    found = set()
    for room in ROOMS:
        folder = REPOSITORY / room if (REPOSITORY / room).is_dir() else REPOSITORY / "maitre" / room
        for file in folder.rglob("*.py"):
            found |= {(room, other) for name in imports(file) for other in rooms_of(name)}
    return {(room, other) for room, other in found if room != other}


def reaches(start: str, goal: str, arrows: set[tuple[str, str]]) -> bool:
    """Return whether arrows lead from one room to another."""
    seen, waiting = {start}, [start]
    while waiting:
        room = waiting.pop()
        nexts = {other for one, other in arrows if one == room} - seen
        if goal in nexts:
            return True
        seen |= nexts
        waiting += nexts
    return False


def drawn(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows without those that a longer way implies."""
    return {arrow for arrow in arrows if not reaches(*arrow, arrows - {arrow})}


def picture() -> str:
    """Return the picture in Mermaid: an arrow points at what is imported."""
    lines = ["```mermaid", "flowchart TD"]
    for ring, rooms in RINGS.items():
        lines += [f'  subgraph ring_{rooms[0]}["{ring}"]', *(f"    {room}" for room in rooms)]
        lines.append("  end")
    lines += [f"  {room} --> {other}" for room, other in sorted(drawn(edges()))]
    return "\n".join([*lines, "```"])


def main() -> None:
    """Write the picture into ARCHITECTURE.md."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{picture()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
