"""Two checks of a Grafana dashboard that Grafana itself makes too late, when somebody looks.

python deploy/dashboard_check.py rules DASHBOARD    its expressions as a rule file, for promtool
python deploy/dashboard_check.py fields DASHBOARD   no field but those that Grafana's schema knows
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

#: What Grafana puts in place of its variables; any value parses as well as another.
_VARIABLES = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}
#: Of Grafana, and not in its schema's published form.
_UNPUBLISHED = ("definition", "titleFormat")


def expressions(node: Any) -> Iterator[str]:
    """Every PromQL expression of a dashboard, variables filled in."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            filled = node["expr"]
            for name, value in _VARIABLES.items():
                filled = filled.replace(name, value)
            yield filled
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from expressions(each)


def rule_file(dashboard: Any) -> str:
    """A rule file (JSON is YAML) that has each expression once."""
    rules = [
        {"record": f"dashboard:expression:{number}", "expr": expr}
        for number, expr in enumerate(dict.fromkeys(expressions(dashboard)))
    ]
    return json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}, indent=1)


def unknown_fields(dashboard: Any) -> list[str]:
    """Paths of fields that get lost between reading a dashboard by the schema and writing it."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    known = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))
    return [path for path in _lost(dashboard, known, "") if not path.endswith(_UNPUBLISHED)]


def _lost(ours: Any, known: Any, path: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(known, dict):
        for name, value in ours.items():
            if name in known:
                yield from _lost(value, known[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}"
    elif isinstance(ours, list) and isinstance(known, list) and len(ours) == len(known):
        for number, (one, other) in enumerate(zip(ours, known, strict=True)):
            yield from _lost(one, other, f"{path}/{number}")
    elif ours != known:
        yield path


def main(what: str, path: str) -> int:
    """Prints a rule file, or the fields that are unknown; 1 if there are any."""
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    if what == "rules":
        print(rule_file(dashboard))
        return 0
    lost = unknown_fields(dashboard)
    for each in lost:
        print(f"{path}: unknown field {each}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
