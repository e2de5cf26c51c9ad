"""`tuning_tasks`: the tasks that can be tuned, checked and described."""

import dagster as dg
import pandas as pd

from assets.shared.inputs import OWNERS, task_files
from assets.shared.retries import retry_outages
from maitre import fingerprints
from resources.data_home import DataHome
from resources.inputs import Inputs

BANK_TASKS_NAME = "bank_tasks"
BANK_TASKS = dg.DynamicPartitionsDefinition(name=BANK_TASKS_NAME)
"""The tasks whose prompts are in the bank: every task but those that are held back."""


@dg.asset(deps=[task_files], group_name="tuning", kinds={"jsonl"}, owners=OWNERS, code_version="2")
@retry_outages
def tuning_tasks(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Write one row per task: group, sizes, labels, majority share, and role."""
    from maitre.tuning.tasks import TaskError

    tasks = inputs.task_source().all()
    if unknown := sorted(set(inputs.held_back) - {task.name for task in tasks}):
        raise TaskError(f"held_back names no task of {inputs.tasks}: {', '.join(unknown)}")
    table = pd.DataFrame(
        {
            "task": task.name,
            "group": task.group or "",
            "role": "held_back" if task.name in inputs.held_back else "bank",
            "train_examples": len(task.train),
            "eval_examples": len(task.eval),
            "labels": len(task.labels),
            "majority_share": task.majority_share(),
            "fingerprint": task.fingerprint(),
        }
        for task in tasks
    )
    home.write_task_table(table)
    _keep_partitions(context.instance, set(table.query("role == 'bank'")["task"]))
    groups = table["group"].nunique()
    context.log.info(f"{len(table)} tasks in {groups} groups, {len(inputs.held_back)} held back")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(fingerprints.of_frame(table)),
        metadata={
            "tasks": len(table),
            "groups": groups,
            "held_back": len(inputs.held_back),
            "table": dg.MetadataValue.md(
                table.drop(columns="fingerprint").to_markdown(index=False)
            ),
        },
    )


def _keep_partitions(instance: dg.DagsterInstance, wanted: set[str]) -> None:
    """Make the partitions of the bank's prompts equal to the present tasks."""
    known = set(instance.get_dynamic_partitions(BANK_TASKS_NAME))
    for gone in known - wanted:
        instance.delete_dynamic_partition(BANK_TASKS_NAME, gone)
    instance.add_dynamic_partitions(BANK_TASKS_NAME, sorted(wanted - known))
