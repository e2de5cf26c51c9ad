"""The run tags by which scheduler, launcher and people speak of warm runs."""

BASE_MODEL_TAG = "maitre/base-model"
"""The base model whose workers may take the run."""

WORKERS_TAG = "maitre/workers"
"""The workers that the policy chose, comma-separated: the run is for all of them together."""

WORKER_TAG = "maitre/worker"
"""The workers that have taken the run; the first one executes it."""

REQUEST_TAG = "maitre/request"
"""The tuning request that the run is for; `ATTEMPT_TAG` says which attempt of it."""

ATTEMPT_TAG = "maitre/attempt"
DEADLINE_TAG = "maitre/deadline"
TENANT_TAG = "maitre/tenant"
