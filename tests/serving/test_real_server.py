"""From tuning to serving on a real vLLM: needs `make vllm` and the embedded base model."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import httpx2
import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from assets.tuning.tuned_prompts import TASKS_NAME, tuned_prompts
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
from maitre.serving.fleet.local_server import LaunchOptions, vllm_python
from maitre.serving.measure.load_generator import send_point
from maitre.serving.observe import request_counts, sample_traffic, throughput_tps
from maitre.serving.proxy.embeds import PromptEmbedder
from maitre.serving.proxy.proxy import proxy_app
from maitre.serving.proxy.routes import RoutedPrompt, read_routes
from maitre.settings import Settings
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig
from maitre.tuning.lora import export_lora, tune_lora
from maitre.tuning.tasks import Example, Task
from maitre.twin import ServerProfile
from maitre.twin.fitting.equations import decode_equation
from maitre.twin.fitting.points import Point
from resources.language_model import LanguageModel
from resources.wiring import resources
from tests.halves import TUNING

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

BASE = "smollm2-135m-instruct"
REPOSITORY = Path(__file__).resolve().parents[2]
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
        return vllm_python(Settings.read().vllm_venv)
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


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path, task: Task) -> Settings:
    task.save(tmp_path / "tasks" / task.name)
    home = tmp_path / "home"
    return Settings(
        home=str(home),
        base_model=str(model_folder),
        tasks=str(tmp_path / "tasks"),
        adapters=str(tmp_path / "adapters.csv"),
        profile="cpu/smollm2-135m",
        request_queue_url=f"sqlite:///{home}/requests.db",
        mlflow_tracking_uri=f"sqlite:///{home}/mlflow/mlflow.db",
    )


def test_what_was_tuned_is_registered_placed_served_and_answers_alike(
    python: Path, model_folder: Path, task: Task, settings: Settings, tmp_path: Path
) -> None:
    """A LoRA adapter and a soft prompt, each from its tuner to an answer through the proxy."""
    accuracy, prompt_folder = registered_prompt(settings, task, tmp_path)
    model = BaseModel.load(model_folder, device="cpu", dtype="float32")
    config = LoraConfig(max_iterations=4, batch_size=8, eval_every=None)
    lora = tune_lora(model, task, config=config, seed=1)
    export_lora(lora, tmp_path / "adapters" / "tuned-lora", base_model=str(model_folder))
    plan = placed(settings, rank=config.rank)

    launch = LaunchOptions("", "", dtype="float32", max_model_len=512, prompt_embeds=True)
    options = FleetOptions(
        python, tmp_path / "adapters", {BASE: str(model_folder)}, launch, prefix=("nice",)
    )
    fleet = LocalFleet(tmp_path / "fleet", options)
    try:
        done = fleet.apply(plan)
        assert done.complete, [str(failure) for failure in done.failed]
        begin_s = time.monotonic()
        assert fleet.steps_to(plan) == ()
        print(f"second apply: {time.monotonic() - begin_s:.2f} s")
        fleet.route_prompts({"tuned-prompt": RoutedPrompt(str(prompt_folder), BASE)})
        with TestClient(proxy_app(fleet.routes_path, lambda _: embedder(model_folder))) as proxy:
            routes = read_routes(fleet.routes_path)
            before = sample_traffic(routes, 0.0, proxy.get("/metrics").text)
            assert right(proxy, "tuned-lora", task) == pytest.approx(lora.eval_accuracy)
            assert right(proxy, "tuned-prompt", task) == pytest.approx(accuracy)
            after = sample_traffic(routes, 10.0, proxy.get("/metrics").text)
        with VllmClient(fleet.running()[plan.servers[0].name].url) as client:
            figures = client.metrics().required(client.url)
        assert figures.requests == 2 * len(task.eval)
        assert figures.missing == (), "this vLLM's metrics are all known"
        asked = float(len(task.eval))
        assert request_counts([before, after]) == (
            {"tuned-lora": asked, "tuned-prompt": asked},
            10.0,
        )
        assert after.unseen == {}
        [tokens] = throughput_tps([before, after]).values()
        assert tokens * 10.0 == figures.prompt_tokens + figures.output_tokens
        assert 1.0 < measured_step_ms(fleet.running()[plan.servers[0].name].url) < 5_000.0
    finally:
        fleet.stop_all()


def measured_step_ms(url: str) -> float:
    """The step time that one burst of four requests shows: a measurement in its shortest form."""
    point = Point("burst", "burst", "fit", ("tuned-lora",), 16, 8, requests=4, duration_s=30.0)

    async def send() -> list[dict]:
        async with httpx2.AsyncClient(base_url=url, timeout=60.0) as http:
            return await send_point(http, point, BASE, {"tuned-lora": 8}, 512)

    found = decode_equation(pd.DataFrame(asyncio.run(send())))
    assert found is not None
    assert (found["sequence"], found["adapter"]) == (4.0, 1.0)
    return found["y"]


def registered_prompt(settings: Settings, task: Task, folder: Path) -> tuple[float, Path]:
    """Tune a prompt as a run of Dagster does; its evaluation, and its version from the registry."""
    used = resources(settings)
    used["language_model"] = LanguageModel(path_or_id=settings.base_model, dtype="float32")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(TASKS_NAME, [task.name])
        config = {"max_iterations": 6, "batch_size": 8, "seed": 1, "lookup": False}
        result = dg.materialize(
            TUNING,
            selection=[tuned_prompts], instance=instance, resources=used,
            partition_key=task.name,
            run_config={"ops": {"tuned_prompts": {"config": config}}},
        )  # fmt: skip
    [made] = result.asset_materializations_for_node("tuned_prompts")
    fetched = (
        used["mlflow"].store().fetch(f"models:/tuned-prompt-{task.name}/1", folder / "registry")
    )
    return float(made.metadata["eval_accuracy"].value), fetched / "prompt"


def placed(settings: Settings, rank: int) -> PlacementPlan:
    """A catalogue of the one adapter, placed with the profile of a server measured before."""
    row = {"adapter": "tuned-lora", "base_model": BASE, "rank": rank, "rate_rps": 0.2,
           "mean_input_tokens": 16, "mean_output_tokens": 4}  # fmt: skip
    catalogue = AdapterCatalogue.from_frame(pd.DataFrame([row]))
    profile = ServerProfile.load(settings.profile)
    return place(catalogue, profile, check_duration_s=300.0, baselines=False)


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
