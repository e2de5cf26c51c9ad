"""The part of this package that a registered model needs, to go with its artefacts."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import maitre

PACKAGE = Path(maitre.__file__).parent
# Beside an installed package, the shipped part must not hide the rest of it.
_INIT = '''"""A part of Maitre, shipped with a registered model."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
'''


def ship_code(model_source: Path, into: Path) -> Path:
    """Copy the modules that a model's source imports, and those that they import.

    Return the copied package's folder. Imports inside functions count.
    """
    waiting, shipped = [model_source], set[Path]()
    while waiting:
        for module in _imported_files(waiting.pop()):
            if module not in shipped:
                shipped.add(module)
                waiting.append(module)
    for module in shipped:
        target = into / "maitre" / module.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, target)
    for folder in {parent for path in shipped for parent in path.relative_to(PACKAGE).parents}:
        (into / "maitre" / folder / "__init__.py").write_text(_INIT)
    return into / "maitre"


def _imported_files(source: Path) -> Iterator[Path]:
    """Yield the files of the modules of this package that a file imports, packages aside."""
    for node in ast.walk(ast.parse(source.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for name in names:
            if name.startswith("maitre."):
                path = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
                if path.is_file():
                    yield path
