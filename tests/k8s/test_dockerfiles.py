"""The images' Dockerfiles, by reading: nothing is built here."""

import re
import tomllib

from tests.k8s.manifests import K8S


def lines(name: str) -> list[str]:
    """Its instructions, one a line, without comments."""
    text = (K8S / "images" / name).read_text()
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line for line in bare.replace("\\\n", " ").splitlines() if line.strip()]


def test_both_images_have_the_same_python_a_release() -> None:
    [base, other] = [
        [line for line in lines(name) if re.match("(ARG PYTHON|FROM)", line)]
        for name in ("Dockerfile", "Dockerfile.gpu")
    ]
    assert base == other
    python = re.match(r"ARG PYTHON=(\d+)\.(\d+)\.\d+-slim-\w+$", base[0])
    assert python is not None
    assert all(line.startswith("FROM python:${PYTHON}") for line in base[1:])
    wanted = tomllib.loads((K8S.parent / "pyproject.toml").read_text())["project"]
    assert wanted["requires-python"] == f">={python[1]}.{python[2]}"


def test_what_runs_has_no_compiler_and_is_nobody_special() -> None:
    for name in ("Dockerfile", "Dockerfile.gpu"):
        said = lines(name)
        last = max(i for i, line in enumerate(said) if line.startswith("FROM"))
        assert not any("build-essential" in line for line in said[last:]), name
        assert said[-1] == "USER 10001:10001", name


def test_the_build_sends_what_is_copied_and_nothing_else() -> None:
    """Else a checkout's environments and caches, gigabytes of them, go with each build."""
    ignored = (K8S.parent / ".dockerignore").read_text().splitlines()
    said = [line for line in ignored if line and not line.startswith("#")]
    assert said[0] == "*"
    sent = {line[1:] for line in said if line.startswith("!")}
    for name in ("Dockerfile", "Dockerfile.gpu"):
        copied = [line.split()[1:-1] for line in lines(name) if line.startswith("COPY")]
        here = {path for paths in copied if paths[0] != "--from=build" for path in paths}
        assert here == sent, name
        assert all((K8S.parent / path).exists() for path in here), name


def test_the_image_for_gpus_asks_for_cuda() -> None:
    assert any("NVIDIA_DRIVER_CAPABILITIES=compute,utility" in x for x in lines("Dockerfile.gpu"))
