"""The environment of child processes: some inherited variables, and those of the caller.

A child process gets the variables that `inherited` returns and those that its caller adds, and no
others: a variable that a user exports for another program does not change a child process.
"""

import os
from collections.abc import Collection, Mapping

UP_ID = "MAITRE_UP_ID"
"""The id of a `maitre up`, by which it finds the processes that it has started, and theirs."""

_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "TMPDIR", "HOSTNAME"),
        *("LANG", "LANGUAGE", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
_PREFIXES = (
    # The interpreter and its tools.
    *("LC_", "XDG_", "PYTHON", "COVERAGE_"),
    # Numerical libraries, GPUs and collectives.
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "NUMBA_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_"),
    *("TORCH", "PYTORCH", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "VLLM_"),
    # Stores: databases, object stores, clusters.
    *("PG", "AWS_", "GOOGLE_", "AZURE_", "FSSPEC_", "KUBERNETES_"),
    *("MLFLOW_", "DAGSTER_", "MAITRE_"),
)


def inherited(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that every child process inherits.

    They are taken from `variables`, by default from this process's environment.
    """
    own = os.environ if variables is None else variables
    return {
        name: value for name, value in own.items() if name in _NAMES or name.startswith(_PREFIXES)
    }


def child_environment(
    added: Mapping[str, str],
    *,
    without: Collection[str] = (),
    variables: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a child's whole environment: the inherited variables, overridden by `added`.

    `without` names inherited variables that the child does not get.
    """
    kept = {name: value for name, value in inherited(variables).items() if name not in without}
    return {**kept, **added}
