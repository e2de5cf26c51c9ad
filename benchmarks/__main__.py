"""Run a benchmark: `python -m benchmarks NAME [options]`; without a name, list them."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

MODULES = {
    "bank": "benchmarks.bank.__main__",
    "bank-lookup": "benchmarks.bank_lookup",
    "placement": "benchmarks.placement.__main__",
    "scheduling": "benchmarks.scheduling",
    "twin": "benchmarks.twin",
    "warm-memory": "benchmarks.warm_memory",
    "warm-start": "benchmarks.warm_start",
}


def first_line(module: str) -> str:
    """Return what a benchmark measures, from its docstring; nothing is imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.splitlines()[0]


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names with the other arguments."""
    name = arguments[0] if arguments else ""
    if name not in MODULES:
        if name not in ("", "--help", "-h"):
            print(f"benchmark {name!r}: expected one of {', '.join(MODULES)}", file=sys.stderr)
            return 2
        print("python -m benchmarks NAME [options]\n")
        for known, module in MODULES.items():
            print(f"  {known:12} {first_line(module)}")
        return 0
    sys.argv = [f"python -m benchmarks {name}", *arguments[1:]]
    importlib.import_module(MODULES[name]).main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
