"""Run a benchmark: `python -m benchmarks NAME [options]`; without a name, list them."""

import argparse
import ast
import importlib
import importlib.util
import sys
from pathlib import Path

from maitre.errors import UserError

MODULES = {
    "architectures": "benchmarks.architectures",
    "bank-build": "benchmarks.bank.build",
    "bank-lookup": "benchmarks.bank.lookup",
    "bank-shared": "benchmarks.bank.shared",
    "bank-starts": "benchmarks.bank.starts_run",
    "bank-steps": "benchmarks.bank.steps",
    "malformed": "benchmarks.malformed.run",
    "placement": "benchmarks.placement.run",
    "registered": "benchmarks.registered",
    "replan": "benchmarks.placement.replan",
    "scheduling": "benchmarks.scheduling",
    "tenants": "benchmarks.tenants",
    "twin": "benchmarks.twin",
    "warm-memory": "benchmarks.warm.memory",
    "warm-start": "benchmarks.warm.start",
}
"""Each module has `add_options(parser)` and `measure(options)`, which returns a `Report`."""

RESULTS = Path(".maitre/benchmarks")


def description(module: str) -> str:
    """Return a benchmark's docstring; import nothing."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names with the other arguments."""
    name = arguments[0] if arguments else ""
    if name not in MODULES:
        if name not in ("", "--help", "-h"):
            print(f"benchmark {name!r}: expected one of {', '.join(MODULES)}", file=sys.stderr)
            return 2
        print("python -m benchmarks NAME [options]\n")
        for known, module in MODULES.items():
            print(f"  {known:13} {description(module).splitlines()[0]}")
        return 0
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description(MODULES[name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=RESULTS,
        help="file (.json) or folder for the figures (default: %(default)s)",
    )
    benchmark = importlib.import_module(MODULES[name])
    benchmark.add_options(parser)
    options = parser.parse_args(arguments[1:])
    try:
        report = benchmark.measure(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.table(), flush=True)
    print(f"written: {report.write(name, options.json)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
