"""From tuning to serving on a real vLLM: needs `make vllm` and the embedded base model."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.evaluate import evaluate
from maitre.tuning.export import export_prompt
from maitre.tuning.lora import LoraConfig, export_lora, tune_lora
from maitre.tuning.tasks import Example, Task
from maitre.tuning.tune import tune
from resources.vllm.client import VllmClient
from resources.vllm.embeds import PromptEmbedder
from resources.vllm.errors import VllmError
from resources.vllm.fleet import FleetOptions, LocalFleet
from resources.vllm.local_server import LaunchOptions, vllm_python
from resources.vllm.proxy import proxy_app
from resources.vllm.routes import RoutedPrompt

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

BASE = "smollm2-135m-instruct"
REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = {
    "max_loras": 2,
    "max_cpu_loras": 4,
    "max_lora_rank": 8,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
}
WORDS = {
    " singular": ["worker", "house", "tree", "river", "book", "stone", "apple", "king"],
    " plural": ["workers", "houses", "trees", "rivers", "books", "stones", "apples", "kings"],
}


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return vllm_python()
    except VllmError as error:
        missing(str(error))
        raise


@pytest.fixture(scope="module")
def model_folder() -> Path:
    named = os.environ.get("MAITRE_BASE_MODEL")
    folder = Path(named) if named else REPOSITORY / ".maitre" / "models" / BASE
    if not folder.is_dir():
        missing(f"no base model at {folder}; `make setup` fetches it")
    return folder


@pytest.fixture(scope="module")
def task() -> Task:
    examples = [Example(word, label) for label, words in WORDS.items() for word in words]
    return Task(
        "number", "singular or plural", None, "accuracy", None,
        train=tuple(examples[::2]), eval=tuple(examples[1::2]),
    )  # fmt: skip


def test_what_was_tuned_answers_alike_through_the_proxy(
    python: Path, model_folder: Path, task: Task, tmp_path: Path
) -> None:
    model = BaseModel.load(model_folder, device="cpu", dtype="float32")
    lora = tune_lora(
        model, task, config=LoraConfig(max_iterations=4, batch_size=8, eval_every=None), seed=1
    )
    export_lora(lora, tmp_path / "adapters" / "tuned-lora", base_model=str(model_folder))
    tuned = tune(
        model, task, init=None, seed=1,
        config=TuneConfig(max_iterations=6, batch_size=8, eval_every=None, virtual_tokens=4),
    )  # fmt: skip
    export_prompt(
        tuned.prompt, tmp_path / "tuned", position="suffix", base_model=BASE,
        base_model_hash=model.hash,
    )  # fmt: skip
    own = evaluate(model, task, tuned.prompt)

    launch = LaunchOptions("", "", dtype="float32", max_model_len=512, prompt_embeds=True)
    options = FleetOptions(
        python, tmp_path / "adapters", {BASE: str(model_folder)}, launch, prefix=("nice",)
    )
    fleet = LocalFleet(tmp_path / "fleet", options)
    plan = PlacementPlan(
        "cpu/smollm2-135m",
        (PlannedServer("s", BASE, CONFIG, (AdapterShare("tuned-lora"),)),),
    )
    try:
        done = fleet.apply(plan)
        assert done.complete, [str(failure) for failure in done.failed]
        begin_s = time.monotonic()
        assert fleet.steps_to(plan) == ()
        print(f"second apply: {time.monotonic() - begin_s:.2f} s")
        fleet.route_prompts({"tuned-prompt": RoutedPrompt(str(tmp_path / "tuned"), BASE)})
        with TestClient(proxy_app(fleet.routes_path, lambda _: embedder(model_folder))) as proxy:
            assert right(proxy, "tuned-lora", task) == pytest.approx(lora.eval_accuracy)
            assert right(proxy, "tuned-prompt", task) == pytest.approx(own.accuracy)
        with VllmClient(fleet.running()["s"].url) as client:
            figures = client.metrics().required(client.url)
        assert figures.requests == 2 * len(task.eval)
        assert figures.missing == (), "this vLLM's metrics are all known"
    finally:
        fleet.stop_all()


def embedder(folder: Path) -> PromptEmbedder:
    return replace(PromptEmbedder.of_folder(folder), dtype="float32")


def right(proxy: TestClient, name: str, task: Task) -> float:
    """The share of eval examples whose completion the server gives exactly."""
    found = []
    for example in task.eval:
        body = {"model": name, "prompt": example.prompt, "max_tokens": 1, "temperature": 0}
        answer = proxy.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["text"] == example.completion)
    return float(np.mean(found))
