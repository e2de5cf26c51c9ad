"""One self-contained HTML page about a plan: servers, risk, bound and baselines, changes."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from maitre.placement.diff import PlanDiff
from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.placement.simulate_plan import PlanCheck

_STYLE = (
    "body{font-family:sans-serif;margin:2em auto;max-width:75em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
)


def plan_page(
    plan: PlacementPlan,
    *,
    check: PlanCheck | None = None,
    diff: PlanDiff | None = None,
    one_fewer: str = "",
) -> str:
    """Return the page as HTML. It needs no network: plotly's script is inside.

    `one_fewer` says what it would take to need one server less (`maitre.placement.explain`).
    """
    parts = [
        "<!doctype html><html><head><meta charset='utf-8'>",
        f"<title>Placement for {html.escape(plan.profile)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{plan.gpus} GPUs for {len(plan.servers_of())} adapters</h1>",
        f"<p>{html.escape(_headline(plan, check))}</p>",
        f"<p>{html.escape(' '.join(filter(None, [_promise(plan), one_fewer])))}</p>",
        _figure(plan).to_html(full_html=False, include_plotlyjs=True),
        _table(_server_rows(plan, check)),
    ]
    if diff is not None:
        parts += [
            f"<h2>Changes: {diff.gpus_before} GPUs before, {diff.gpus_after} after</h2>",
            _table(_change_rows(diff)),
            "<h2>Steps, in this order</h2>",
            _table(_step_rows(diff)),
        ]
    return "\n".join([*parts, "</body></html>"])


def _headline(plan: PlacementPlan, check: PlanCheck | None) -> str:
    text = (
        f"Profile {plan.profile}. No plan needs fewer than {plan.lower_bound_gpus} GPUs in steady "
        "state (lower bound)."
    )
    if plan.baselines:
        name, gpus = min(plan.baselines.items(), key=lambda item: item[1])
        text += f" The best simpler method, {name}, needs {gpus}."
    if check is not None:
        text += (
            f" Replayed for {check.duration_s:.0f} s at {check.rate_factor:g} times the rates: "
            f"{len(check.unhealthy)} of {len(check.servers)} servers unhealthy."
        )
    return text


def _promise(plan: PlacementPlan) -> str:
    known, promise = plan.evidence, plan.evidence.promise
    if promise is None:
        return ""
    text = (
        f"Promised: at rates {100 * promise.headroom:g} % above the catalogue's, every server "
        f"keeps up and begins to answer within {promise.ttft_slo_ms / 1000:g} s (99th percentile, "
        f"each adapter), with a risk of at most {promise.risk:g}."
    )
    if known.servers_checked:
        text += (
            f" {known.servers_checked} servers were simulated for {known.duration_s or 0:g} s at "
            "those rates."
        )
    if known.lower_bound_gpus_with_headroom is not None:
        text += f" With the headroom the bound is {known.lower_bound_gpus_with_headroom} GPUs."
    return text


def _figure(plan: PlacementPlan) -> go.Figure:
    names = [server.name for server in plan.servers]
    ranks = [str(server.config.max_lora_rank) for server in plan.servers]
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "Fill of the servers (1: at the limit)",
            "Risk of an unhealthy server",
            "KV cache in use against slots",
            "GPUs: lower bound, this plan, simpler methods",
        ),
    )
    for rank in sorted(set(ranks), key=int):
        mine = [i for i, of in enumerate(ranks) if of == rank]
        figure.add_bar(
            x=[names[i] for i in mine],
            y=[_prediction(plan.servers[i]).get("fill") for i in mine],
            name=f"rank {rank}",
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[plan.servers[i].config.max_loras for i in mine],
            y=[_prediction(plan.servers[i]).get("kv_fraction") for i in mine],
            text=[names[i] for i in mine],
            mode="markers",
            name=f"rank {rank}",
            showlegend=False,
            row=2,
            col=1,
        )
    figure.add_hline(y=1.0, line_dash="dash", row=1, col=1)
    figure.add_bar(
        x=names,
        y=[_prediction(server).get("starvation_risk") for server in plan.servers],
        showlegend=False,
        row=1,
        col=2,
    )
    gpus = {"lower bound": plan.lower_bound_gpus, "this plan": plan.gpus, **plan.baselines}
    figure.add_bar(x=list(gpus), y=list(gpus.values()), showlegend=False, row=2, col=2)
    figure.update_layout(height=800, barmode="overlay")
    return figure


def _prediction(server: PlannedServer) -> dict[str, Any]:
    return server.predicted.to_dict() if server.predicted else {}


def _server_rows(plan: PlacementPlan, check: PlanCheck | None) -> list[dict[str, Any]]:
    found = {server.server: server for server in check.servers} if check else {}
    rows = []
    for server in plan.servers:
        row = {
            "server": server.name,
            "adapters": len(server.adapters),
            "slots": server.config.max_loras,
            "rank": server.config.max_lora_rank,
            **_prediction(server),
        }
        if server.name in found:
            health = found[server.name].health
            row["replay"] = "healthy" if health.healthy else health.reason
        rows.append(row)
    return rows


def _change_rows(diff: PlanDiff) -> list[dict[str, Any]]:
    servers = {
        "server added": diff.servers_added,
        "server removed": diff.servers_removed,
        "server restarted": diff.servers_reconfigured,
        "adapter added": diff.adapters_added,
        "adapter removed": diff.adapters_removed,
    }
    rows: list[dict[str, Any]] = [
        {"change": change, "what": name, "from": "", "to": ""}
        for change, names in servers.items()
        for name in names
    ]
    rows += [
        {
            "change": "adapter moved",
            "what": move.adapter,
            "from": ", ".join(move.before),
            "to": ", ".join(move.after),
        }
        for move in diff.moves
    ]
    return rows


def _step_rows(diff: PlanDiff) -> list[dict[str, Any]]:
    return [
        {
            "step": number,
            "action": step.action.replace("_", " "),
            "server": step.server,
            "adapter": step.adapter,
            "shares": ", ".join(f"{name}: {s:g}" for name, s in (step.shares or {}).items()),
        }
        for number, step in enumerate(diff.steps, start=1)
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
