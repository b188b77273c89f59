"""Sentences about a record, made from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rlkv.report.schema import (
    DecisionMap,
    Ratio,
    Record,
    best_rule_name,
    bounds,
    competitors,
    learned_name,
    ratio_to_best_rule,
    scenarios,
)

#: Who asks at a decision point of a map.
REQUESTERS = {"NEW": "a new session", "RESUME": "a returning session", "GROW": "a decoding session"}


def ms(seconds: float) -> str:
    """Milliseconds with three digits: 24.7, 0.81, 1,250."""
    return digits(seconds * 1000.0)


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{places}f}"


def seconds(value: float) -> str:
    """A duration with its unit: 81 ms, 1.25 s, 4.0 min."""
    if abs(value) < 1.0:
        return f"{ms(value)} ms"
    return f"{digits(value)} s" if value < 120.0 else f"{digits(value / 60.0)} min"


def times(ratio: Ratio) -> str:
    """A ratio with its interval: 0.86x [0.84, 0.88]."""
    low, high = ratio.get("ci95", (ratio["ratio"], ratio["ratio"]))
    if low == high:
        return f"{ratio['ratio']:.2f}x"
    # Three decimals where two would hide on which side of 1 the interval ends.
    places = 3 if "1.00" in (f"{low:.2f}", f"{high:.2f}") else 2
    return f"{ratio['ratio']:.{places}f}x [{low:.{places}f}, {high:.{places}f}]"


def verdict(record: Record) -> str:
    """How the learned policy compares with the best rule; without one, which rule is best."""
    learned, best = learned_name(record), best_rule_name(record)
    if best is None:
        name = next(iter(record["policies"]))
        mean_s = record["policies"][name]["normalized_latency_s"]["mean"]
        return f"{name} takes {ms(mean_s)} ms/token; the record holds no rule to compare it with"
    if learned is None:
        mean_s = record["policies"][best]["normalized_latency_s"]["mean"]
        num_rules = len(competitors(record))
        return f"{best} is the best of {num_rules} rules: {ms(mean_s)} ms/token"
    ratio = ratio_to_best_rule(record, learned)
    if ratio is None:
        return f"{learned} cannot be compared: the best rule ({best}) has no latency"
    low, high = ratio.get("ci95", (1.0, 1.0))
    if low == high:  # one trace has no interval either
        return f"{learned} is {times(ratio)} of the best rule ({best}), without an interval"
    if high < 1.0:
        return f"{learned} is {times(ratio)} of the best rule ({best})"
    if low > 1.0:
        return f"{learned} is worse than the best rule ({best}): {times(ratio)}"
    return f"{learned} is not better than the best rule ({best}): {times(ratio)}"


def overall(record: Record) -> str:
    """On how many scenarios the learned policy is better, worse or neither; one: the verdict."""
    records = scenarios(record)
    if len(records) == 1:
        return verdict(record)
    better = worse = compared = 0
    for one in records:
        learned = learned_name(one)
        ratio = ratio_to_best_rule(one, learned) if learned else None
        low, high = ratio.get("ci95", (1.0, 1.0)) if ratio else (1.0, 1.0)
        if low < high:
            compared += 1
            better += high < 1.0
            worse += low > 1.0
    if not compared:
        return f"{len(records)} scenarios, none with an interval for a learned policy"
    return (
        f"Against the best rule of each of {compared} scenarios, the learned policy is better on"
        f" {better}, worse on {worse} and neither on {compared - better - worse}"
    )


def about_policies(record: Record) -> str:
    """The verdict, and the best of those that see the future."""
    known = bounds(record)
    best = best_rule_name(record)
    if not known or best is None:
        return verdict(record)
    name, ratio = next(iter(known)), ratio_to_best_rule(record, next(iter(known)))
    if ratio is None:
        return verdict(record)
    return f"{verdict(record)}; {name}, which sees the future, {ratio['ratio']:.2f}x"


def about_load(record: Record) -> str:
    """Sustainable rates of the learned policy and the best rule."""
    sweep = record.get("load_sweep")
    if not sweep or not sweep.get("sustainable_rate_per_s"):
        return "Mean normalized latency against load"
    rates, sides = sweep["sustainable_rate_per_s"], sweep.get("sustainable_side", {})
    edges = (min(sweep["rates_per_s"]), max(sweep["rates_per_s"]))
    said = []
    for name in (learned_name(record), best_rule_name(record)):
        if name is None or name not in rates:
            continue
        rate = rates[name]
        if rate is not None:
            said.append(f"{name} sustains {digits(rate)} sessions/s")
        elif sides.get(name) == "above":
            said.append(f"{name} sustains more than {digits(edges[1])} sessions/s")
        elif sides.get(name) == "below":
            said.append(f"{name} sustains less than {digits(edges[0])} sessions/s")
    return ", ".join(said) or "Mean normalized latency against load"


#: What is saved where no verbs were, by the form of the chosen snapshot.
KEPT = {
    "bundle": "the policy of the bundle that training started with: nothing learnt here was better",
    "order": "the rule with an order of victims: no verbs learnt here were better",
}


def about_learning(record: Record) -> str:
    """The chosen snapshot against the best rule on validation traces."""
    curve = record.get("learning_curve", [])
    if not curve:
        return "No learning curve"
    name = learned_name(record) or "the learned policy"
    chosen = next((point for point in curve if point.get("chosen")), None)
    shown = chosen or curve[-1]
    if chosen and chosen.get("form") in KEPT:
        text = f"{name} is {KEPT[chosen['form']]}, with {ms(shown['validation_s'])} ms/token"
    else:
        verb = "is chosen" if chosen else "ends"
        at = f"{steps(shown['steps'])} steps with {ms(shown['validation_s'])} ms/token"
        text = f"{name} {verb} at {at}"
    rules = _known_rules(record)
    if not rules:
        return text
    best = min(rules, key=lambda rule: rules[rule])
    ratio = shown["validation_s"] / rules[best]
    return f"{text}: {ratio:.2f}x of the best rule on validation ({best}, {ms(rules[best])})"


def about_gaps(record: Record) -> str:
    """In how many pause lengths the mean resume latency is lower than the best rule's."""
    learned, best = learned_name(record), best_rule_name(record)
    if learned is None or best is None:
        return "Resume latency by length of the pause"
    ours = record["policies"][learned].get("resume_latency_by_gap_s", {})
    theirs = record["policies"][best].get("resume_latency_by_gap_s", {})
    shared = [gap for gap in ours if gap in theirs]
    lower = sum(ours[gap]["mean"] < theirs[gap]["mean"] for gap in shared)
    return (
        f"{learned} resumes faster than {best} on average after {lower} of {len(shared)} lengths"
        " of pause"
    )


def about_maps(record: Record) -> str:
    """On how much of each map, and of the decisions met, the learned policy leaves the rule."""
    learned, best = learned_name(record), best_rule_name(record)
    said, alone = [], []
    for point, maps in record.get("decision_maps", {}).items():
        ours, theirs = maps.get(learned or ""), maps.get(best or "")
        where = f"the map where {REQUESTERS.get(point, point)} needs memory"
        if ours and theirs and _grid(ours) == _grid(theirs):
            said.append(f"{differing(ours, theirs):.0%} of {where}")
        elif ours:
            alone.append(f"{_preserved(ours):.0%} of {where}")
    if said:
        return f"{learned} answers differently from {best} on {', '.join(said)}"
    if alone:
        return f"{learned} preserves on {', '.join(alone)}"
    return "Verbs by expected remaining pause and context"


def about_timeline(record: Record) -> str:
    """Mean share of the device pool that paused sessions hold under each policy."""
    held = {
        name: sum(timeline["paused"]) / len(timeline["paused"])
        for name, timeline in record.get("timeline", {}).items()
        if timeline["paused"]
    }
    said = [f"{share:.0%} under {name}" for name, share in held.items()]
    return "Device memory held by paused sessions: " + ", ".join(said)


def about_regret(record: Record, table: Mapping[str, Any]) -> str:
    """Worst case and geometric mean over scenarios: learned, and the rule whose worst is least."""
    count = len(scenarios(record))
    learned = learned_name(record)
    policies = cast(Mapping[str, Mapping[str, Any]], table["policies"])
    rules = [
        name
        for name, row in policies.items()
        if name != learned and not row["sees_future"] and row["num_scenarios"] == count
    ]
    said = []
    if learned is not None and learned in policies:
        row = policies[learned]
        where = "" if row["num_scenarios"] == count else f" (on {row['num_scenarios']})"
        said.append(f"{learned}{where} {row['max']:.2f}x at worst")
    if rules:
        safest = min(rules, key=lambda name: float(policies[name]["max"]))
        said.append(f"the safest rule, {safest}, {policies[safest]['max']:.2f}x")
    return f"Over {count} scenarios, against the best rule of each: " + ", ".join(said)


def steps(count: int) -> str:
    """A number of steps: 820, 12.5k, 1.3M."""
    if count >= 1e6:
        return f"{count / 1e6:.3g}M"
    return f"{count / 1e3:.3g}k" if count >= 1e4 else f"{count:,}"


def differing(ours: DecisionMap, theirs: DecisionMap) -> float:
    """Share of the cells of two maps of one shape in which the verbs differ."""
    pairs = [
        (a, b)
        for row, other in zip(ours["verb"], theirs["verb"], strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    return sum(a != b for a, b in pairs) / max(len(pairs), 1)


def _grid(drawn: DecisionMap) -> tuple[list[float], list[float]]:
    return drawn["remaining_s"], drawn["context_ratio"]


def _preserved(drawn: DecisionMap) -> float:
    verbs = [verb for row in drawn["verb"] for verb in row]
    return verbs.count(0) / max(len(verbs), 1)


def _known_rules(record: Record) -> dict[str, float]:
    # Validation latency of rules that do not see the future.
    ahead = bounds(record)
    return {
        name: value
        for name, value in record.get("validation_rules_s", {}).items()
        if name not in ahead and name != learned_name(record) and value > 0
    }
