"""One vLLM server as a process of this machine: start it, wait until ready, stop it, read its log.

vLLM has a virtual environment of its own (`make vllm`), because it pins its libraries. The command
is `python -m vllm.entrypoints.openai.api_server`: the CPU build's command `vllm` looks for a
package of another name.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from maitre.processes.child import ChildProcess
from maitre.processes.environment import UP_ID, child_environment
from maitre.processes.ports import free_port
from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.names import dns_label
from maitre.tuning.model_folder import HubId
from maitre.twin.limits import VllmLimits, batch_flags

READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0


def vllm_python(venv: str) -> Path:
    """Return the interpreter of vLLM's virtual environment (the setting `vllm_venv`).

    Raises:
        VllmError: the environment does not exist; the message says how to make it.
    """
    python = Path(venv) / "bin" / "python"
    if not python.exists():
        raise VllmError(
            f"{venv}: expected a virtual environment with vLLM; run `make vllm`, or set "
            "MAITRE_VLLM_VENV to the environment that has it"
        )
    return python.absolute()


@dataclass(frozen=True)
class LaunchOptions:
    """How a server is started. The defaults suit a CPU; `more` holds further flags of vLLM.

    `kv_cache_gib` is the size of the KV cache on a CPU; `gpu_memory_utilization` decides it on a
    GPU. With `max_loras=None` the server takes no adapters.
    """

    base_model: str
    served_name: str
    max_loras: int | None = 8
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = 2048
    dtype: str = "bfloat16"
    gpu_memory_utilization: float = 0.5
    kv_cache_gib: int = 1
    threads: str | None = None
    prefix_caching: bool = False
    prompt_embeds: bool = False
    more: tuple[str, ...] = ()

    def arguments(self, host: str, port: int) -> list[str]:
        """Return vLLM's command line, after the interpreter."""
        command = [
            *("-m", "vllm.entrypoints.openai.api_server"),
            *self._model_flags(),
            f"--served-model-name={self.served_name}",
            f"--host={host}",
            f"--port={port}",
            f"--dtype={self.dtype}",
            f"--gpu-memory-utilization={self.gpu_memory_utilization}",
            *self._limit_flags(),
            "--enforce-eager",
            "--no-enable-log-requests",
            "--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching",
        ]
        if self.max_model_len:
            command.append(f"--max-model-len={self.max_model_len}")
        if self.prompt_embeds:
            command.append("--enable-prompt-embeds")
        return [*command, *self.more]

    def _model_flags(self) -> list[str]:
        hub_id = None if Path(self.base_model).is_dir() else HubId.parse(self.base_model)
        if hub_id is None or hub_id.revision is None:
            return [f"--model={self.base_model}"]
        return [f"--model={hub_id.repo}", f"--revision={hub_id.revision}"]

    def _limit_flags(self) -> list[str]:
        if not self.max_loras:
            return batch_flags(self.max_num_seqs, self.max_num_batched_tokens)
        return VllmLimits(
            max_loras=self.max_loras,
            max_cpu_loras=max(self.max_cpu_loras or 0, self.max_loras),
            max_lora_rank=self.max_lora_rank,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        ).to_flags()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that vLLM reads."""
        found = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_NO_USAGE_STATS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if Path(self.base_model).is_dir():
            # A hub id follows the user's own setting.
            found["HF_HUB_OFFLINE"] = "1"
        if self.threads:
            found["VLLM_CPU_OMP_THREADS_BIND"] = self.threads
        return found


@dataclass(frozen=True)
class LocalServer:
    """A server that runs or starts. `pid` leads a process group of its own."""

    name: str
    url: str
    pid: int
    log: Path
    process: subprocess.Popen | None = field(default=None, compare=False)

    @classmethod
    def start(
        cls,
        name: str,
        options: LaunchOptions,
        *,
        log_folder: Path,
        python: Path,
        port: int | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> Self:
        """Start a process and return at once; `prefix` comes before the command (`nice`)."""
        port = port or free_port(host)
        log = log_folder / f"{dns_label(name)}.log"
        child = ChildProcess.start(
            name,
            [*prefix, str(python), *options.arguments(host, port)],
            log=log,
            environment=child_environment(options.environment(), without=_NOT_FOR_VLLM),
        )
        return cls(name, f"http://{host}:{port}", child.pid, log, child.process)

    def alive(self) -> bool:
        """Return whether the server's process runs."""
        if self.process is not None:
            return self.process.poll() is None
        return any(pid == self.pid for pid in _members(self.pid))

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the server answers.

        Raises:
            VllmError: the server ended, or did not answer in time. The message has the last error
                of its log.
        """
        give_up_at = time.monotonic() + timeout_s
        with VllmClient(self.url) as client:
            while not client.healthy():
                if not self.alive():
                    raise VllmError(
                        f"server {self.name} at {self.url} ended: {self.last_error()}; "
                        f"see {self.log}"
                    )
                if time.monotonic() > give_up_at:
                    raise VllmError(
                        f"server {self.name} at {self.url} was not ready within {timeout_s:.0f} s; "
                        f"see {self.log}"
                    )
                time.sleep(0.25)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Terminate the server and wait; kill what remains. Do nothing when it has ended."""
        if self.alive():
            _signal([self.pid], signal.SIGTERM)
        give_up_at = time.monotonic() + timeout_s
        while self.alive() and time.monotonic() < give_up_at:
            time.sleep(0.1)
        # The engine is a child process in the same group; it must end too.
        _signal(_members(self.pid), signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def last_error(self) -> str:
        """Return the last line of the log that names an error, or else the last line."""
        if not self.log.is_file():
            return "it has no log"
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        errors = [line for line in lines if "Error" in line and "Traceback" not in line]
        return next(iter(errors[-1:] or [line for line in lines[-1:] if line]), "an empty log")


# These variables would change vLLM's Python, or limit its cores.
# A server outlives the `maitre up` whose run has started it.
_NOT_FOR_VLLM = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", UP_ID)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _members(group: int) -> list[int]:
    """Return the running processes of a server's group.

    Only processes of vLLM count: the operating system may have given an old pid to another process.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            words = (folder / "cmdline").read_bytes().lower()
        except (OSError, ValueError, IndexError):
            continue
        if int(process_group) == group and state != "Z" and b"vllm" in words:
            found.append(int(folder.name))
    return found
