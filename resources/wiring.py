"""The resources of the code locations, built from the user's settings."""

from typing import Any

from maitre.settings import Settings
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from resources.mlflow_tracking import MlflowTracking
from resources.request_queue import RequestQueue


def resources(settings: Settings) -> dict[str, Any]:
    """Return the resources by the names under which assets and sensors ask for them."""
    return {
        "settings": settings,
        "home": DataHome(root=settings.home),
        "inputs": Inputs(
            tasks=settings.tasks,
            held_back=list(settings.held_back),
            adapters=settings.adapters,
            profile=settings.profile,
        ),
        "language_model": LanguageModel(path_or_id=settings.base_model),
        "mlflow": MlflowTracking(
            tracking_uri=settings.mlflow_tracking_uri, ui_url=settings.mlflow_ui_url
        ),
        "gateway": Gateway(
            routes_file=str(settings.scratch / "serving" / "routes.json"),
            metrics_url=settings.gateway_metrics_url,
        ),
        "request_queue": RequestQueue(url=settings.request_queue_url),
    }
