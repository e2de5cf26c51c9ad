"""The compiled kernels: their disk cache, and what mypy is not asked about them."""

import ast
from pathlib import Path

import pytest

from maitre.twin.kernel import compiled


def test_a_cache_that_names_a_lost_type_is_empty():
    def lost():
        raise AttributeError("no such type any more")

    assert compiled._without_lost_types(lost)() == {}
    assert compiled._without_lost_types(lambda: {"kept": 1})() == {"kept": 1}


def test_other_failures_of_the_cache_are_not_hidden():
    def unreadable():
        raise PermissionError("index")

    with pytest.raises(PermissionError):
        compiled._without_lost_types(unreadable)()


@pytest.mark.slow
def test_only_compiled_kernels_lack_annotations():
    package = Path(compiled.__file__).parents[2]
    bare = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            decorators = {getattr(decorator, "id", "") for decorator in node.decorator_list}
            if node.returns is None and "compiled" not in decorators and node.name != "__init__":
                bare.append(f"{path.relative_to(package)}:{node.lineno} {node.name}")
    assert bare == []


def test_a_change_beside_a_kernel_changes_its_stamp(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("a = 1")
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "step.py").write_text("b = 1")
    before = compiled._source_stamp(str(own), (beside,))
    compiled._source_stamp.cache_clear()
    assert compiled._source_stamp(str(own), (beside,)) == before
    (beside / "step.py").write_text("b = 2")
    compiled._source_stamp.cache_clear()
    assert compiled._source_stamp(str(own), (beside,)) != before
