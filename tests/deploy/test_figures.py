import json
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.metric_names import exposed, named_in

DEPLOY = Path(__file__).parents[2] / "deploy"


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana/denwa.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_metric_of_the_dashboard_exists() -> None:
    """The dashboard asks for nothing that neither the gateway nor a model worker exposes."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    variables = [each["query"]["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    named = named_in("\n".join([*queries, *variables]))
    assert len(named) > 20
    assert named <= exposed()


def test_every_metric_of_the_alerts_exists() -> None:
    """So do the alerts, and each has a severity, a summary and a description."""
    assert named_in("\n".join(rule["expr"] for rule in rules())) <= exposed()
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_the_conversations_figures_are_on_the_dashboard() -> None:
    """Nothing about conversations is counted that nobody sees."""
    queries = "\n".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", []))
    families = {name.removesuffix("_bucket") for name in named_in(queries)}
    unseen = {name for name in exposed() if not name.endswith(("_sum", "_count"))} - families
    unseen = {name for name in unseen if name.removesuffix("_bucket") not in families}
    assert not {
        name for name in unseen if any(word in name for word in ("turn", "barge", "speech", "silence", "unheard"))
    }


def test_the_dashboard_is_laid_out() -> None:
    """Panels have ids of their own, do not lie over one another, and ask the chosen Prometheus."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
