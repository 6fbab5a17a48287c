"""What `deploy/` holds: the queries of the dashboard's panels, and the expressions of the alerts."""

import json
import re
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/kvhorizon.json").read_text())
RULES_FILE = DEPLOY / "prometheus/kvhorizon.rules.yml"
RULES = RULES_FILE.read_text()
ALERTS = dict(re.findall(r"- alert: (\w+)\n        expr: (.+)$", RULES, re.MULTILINE))
TARGETS = {f"{panel['title']} {one['refId']}": one for panel in DASHBOARD["panels"] for one in panel["targets"]}
PANELS = {name: one["expr"] for name, one in TARGETS.items()}
