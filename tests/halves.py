"""The assets and asset checks of each half, found by folder as the code locations find them."""

import dagster as dg

import assets.serving
import assets.tuning
from maitre.settings import Settings
from pipelines.code_location import code_location
from pipelines.serving import serving_half
from pipelines.tuning import tuning_half

TUNING = list(dg.load_assets_from_package_module(assets.tuning))
TUNING_CHECKS = list(dg.load_asset_checks_from_package_module(assets.tuning))
TUNING_GRAPH = code_location(Settings(), tuning_half(Settings())).resolve_asset_graph()
SERVING = list(dg.load_assets_from_package_module(assets.serving))
SERVING_CHECKS = list(dg.load_asset_checks_from_package_module(assets.serving))
SERVING_GRAPH = code_location(Settings(), serving_half(Settings())).resolve_asset_graph()
