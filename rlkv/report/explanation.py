"""An explanation as sentences and as tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rlkv.report.findings import digits, ms
from rlkv.report.schema import Explanation, QuantityDepartures, Ratio, TreeDescription
from rlkv.report.sections import Rows

VERB_NAMES = ("PRESERVE", "SWAP", "DISCARD")
_WHO = {
    "CALL": "When a call begins",
    "NEW": "For a new session",
    "RESUME": "For a returning session",
    "DECODE": "For a decoding session",
}
_DONE = ("its KV is kept", "a copy goes to the host", "its KV comes first to be overwritten")
_TAKEN = ("keeps its memory", "is copied out", "is dropped, to be recomputed")
#: Departures rarer than this share of a requester's decisions are not worth a column.
_RARE = 0.0005


def about_departures(explanation: Explanation) -> str:
    """How often, and where most, the policy departs from its rule."""
    found, name = explanation["departures"], explanation["policy"]
    if not found["departed"]:
        return f"{name} never departs from its rule ({explanation['rule']})"
    asked = {who: part for who, part in found["requesters"].items() if who != "CALL"}
    total = sum(part["decisions"] for part in asked.values())
    short = sum(part["decisions"] * part["departed"] for part in asked.values())
    parts = [
        f"{percent(part['departed'])} of those for {who}"
        for who, part in sorted(asked.items(), key=lambda item: -item[1]["departed"])
    ]
    share = percent(short / total) if total else "0 %"
    return (
        f"{name} departs from its rule at {share} of the decisions where memory is short:"
        f" {', '.join(parts)}"
    )


def findings(explanation: Explanation) -> list[str]:
    """What the policy does otherwise, a sentence for each direction that is not rare."""
    found = []
    for who, part in explanation["departures"]["requesters"].items():
        for rule, verb, share in sorted(part["directions"], key=lambda d: -d[2]):
            if share < 0.01:
                continue
            found.append(
                f"{_WHO[who]}: {percent(share)} of its decisions are {VERB_NAMES[verb]} where the"
                f" rule says {VERB_NAMES[rule]}: {_meaning(who, rule, verb)}"
            )
    return found


def _meaning(who: str, rule: int, verb: int) -> str:
    if who == "CALL":
        return f"{_DONE[verb]} where under the rule {_DONE[rule]}"
    if who == "NEW" and verb == 0:
        return "it waits, where the rule would have taken a paused session's memory"
    if who == "NEW" and rule == 0:
        return f"it is admitted, and the candidate {_TAKEN[verb]}, where the rule lets it wait"
    if verb == 0:
        # docs/scheduler.md, section 4.
        return "the next candidate is asked; if all are kept, the rule takes, without its slack"
    return f"the candidate {_TAKEN[verb]}, where under the rule it {_TAKEN[rule]}"


def about_trees(explanation: Explanation) -> str:
    """The latency of the trees against that of rule and network."""
    latency, name = explanation.get("latency", {}), chosen_trees(explanation)
    if name not in latency:
        return ""
    text = f"{name}: {ratio(latency[name]['ratio_to_rule'])} of the rule"
    if "network" not in latency:
        return text
    return f"{text}, {ratio(latency[name]['ratio_to_policy'])} of the network"


def about_validation(explanation: Explanation) -> str:
    """Network and trees against the rule on the traces that chose them."""
    found, depth = explanation.get("validation"), explanation.get("depth")
    if not found or depth is None:
        return ""
    trees = found[f"depth {depth}"]["ratio"]
    return (
        f"on validation traces the network takes {found['teacher']['ratio']:.3f}x of the rule's"
        f" latency, trees of depth {depth} {trees:.3f}x; saved: {explanation.get('saved', '-')}"
    )


def chosen_trees(explanation: Explanation) -> str:
    """The name of the trees among the latencies, of the depth that was chosen."""
    depth = explanation.get("depth")
    return "trees" if depth is None else f"trees, depth {depth}"


def requester_rows(explanation: Explanation) -> Rows:
    """Shares of decisions and of departures by who asks, with their directions."""
    body: list[tuple[str, Sequence[str]]] = []
    for who, part in explanation["departures"]["requesters"].items():
        said = ", ".join(
            f"{VERB_NAMES[rule]} -> {VERB_NAMES[verb]} {percent(share)}"
            for rule, verb, share in sorted(part["directions"], key=lambda d: -d[2])
            if share >= _RARE
        )
        body.append(("", [who, percent(part["decisions"]), percent(part["departed"]), said or "-"]))
    head = ["asked for", "decisions", "departs", "rule -> policy, share of its decisions"]
    return Rows(head, body, text_columns=frozenset({3}))


def quantity_rows(explanation: Explanation, name: str) -> Rows:
    """Departures by the bins of one quantity, a column for each that asks."""
    quantity = explanation["departures"]["quantities"][name]
    asked = list(quantity["requesters"])
    body: list[tuple[str, Sequence[str]]] = []
    for i, label in enumerate(bin_labels(explanation, quantity)):
        cells = []
        for who in asked:
            part = quantity["requesters"][who][i]
            if part["decisions"] == 0:
                cells.append("-")
                continue
            cells.append(f"{percent(part['departed'])} of {percent(part['decisions'])}")
        body.append(("", [label, *cells]))
    return Rows([quantity["title"], *asked], body)


def constant_quantities(explanation: Explanation) -> list[str]:
    """A sentence on each quantity that hardly varies over the decisions."""
    return [
        f"{quantity['title']}: {bin_labels(explanation, quantity)[0]} at all of them"
        for quantity in explanation["departures"]["quantities"].values()
        if len(quantity["edges"]) == 2
    ]


def binned_quantities(explanation: Explanation) -> list[str]:
    """Names of the others, each of which has a table."""
    quantities = explanation["departures"]["quantities"]
    return [name for name, quantity in quantities.items() if len(quantity["edges"]) > 2]


def latency_rows(explanation: Explanation) -> Rows:
    """Rule, network and trees on the held-out traces."""
    chosen = explanation.get("depth")
    body: list[tuple[str, Sequence[str]]] = []
    for name, part in explanation.get("latency", {}).items():
        low, high = part["ci95"]
        mark = " (chosen)" if chosen is not None and name.endswith(f"depth {chosen}") else ""
        body.append(
            (
                "",
                [
                    name + mark,
                    f"{ms(part['mean_s'])} [{ms(low)}, {ms(high)}]",
                    ratio(part["ratio_to_rule"]),
                    ratio(part["ratio_to_policy"]),
                ],
            )
        )
    known = explanation.get("latency", {})
    policy = next((name for name in ("network", "trees") if name in known), "rule")
    head = ["", "ms/token, mean", "ratio to the rule", f"ratio to the {policy}"]
    num = len(explanation.get("test_seeds", []))
    return Rows(head, body, f"Mean normalized latency on {num} paired held-out traces")


def tree_heading(tree: TreeDescription) -> str:
    """Who asks, how many decisions that is, and how the tree agrees."""
    said = [f"{percent(tree['decisions'])} of decisions"]
    if tree["agreement"] is not None:
        said.append(f"agrees with the network on {percent(tree['agreement'])}")
    said.append(f"departs from the rule on {percent(tree['departed'])}")
    return f"{tree['who']} ({tree['requester']}): {', '.join(said)}"


def bin_labels(explanation: Explanation, quantity: QuantityDepartures) -> list[str]:
    """The bins of a quantity in its own units, and in seconds where it is a time."""
    edges = quantity["edges"]
    labels = []
    for low, high in pairwise(edges):
        if quantity["unit"] == "share of the pool":
            labels.append(f"{100 * low:.3g} to {100 * high:.3g} % of the pool")
        elif quantity["unit"] == "mean pauses":
            unit_s = explanation["mean_pause_s"]
            seconds = f"{digits(low * unit_s)} to {digits(high * unit_s)} s"
            labels.append(f"{digits(low)} to {digits(high)} mean pauses ({seconds})")
        elif quantity["unit"] == "tokens":
            labels.append(f"{low:,.0f} to {high:,.0f} tokens")
        else:
            labels.append(f"{digits(low)} to {digits(high)} {quantity['unit']}")
    return labels


def ratio(found: Ratio) -> str:
    """A ratio with its interval, a thousandth apart: 0.994x [0.992, 0.996]."""
    low, high = found.get("ci95", (found["ratio"], found["ratio"]))
    interval = f" [{low:.3f}, {high:.3f}]" if low < high else ""
    return f"{found['ratio']:.3f}x{interval}"


def percent(share: float) -> str:
    """A share in percent: 0.2 %, 12 %."""
    value = 100.0 * share
    return f"{value:.1f} %" if 0.0 < value < 9.95 else f"{value:.0f} %"
