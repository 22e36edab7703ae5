"""From the runs to the report: medians, ratios to the better peer, bars, tables, JSON."""

import json
from dataclasses import dataclass
from statistics import median

from .measure import Work
from .servers import BEFORE, LARGE, SMALL

OURS = "lb-threads"
IDLE_BYTES_BAR = 256
# "As fast as before" cannot be measured as exactly 1: this much is noise on a small machine.
IDLE_LATENCY_BAR = 1.1
# What other programs may take of the cores in a run, before the report warns.
OTHERS_LIMIT = 0.1


@dataclass(frozen=True)
class Figure:
    """One column: how the runs of a balancer become one number, and which direction is better."""

    key: str
    title: str
    form: str
    more_is_better: bool = False
    compared: bool = True
    # The median over the rounds, but what may not be lost in one (errors, peaks) is added up or the highest.
    combine: object = median


LOAD_FIGURES = (
    Figure("rate", "req/s", "{:,.0f}", more_is_better=True),
    Figure("spread", "spread", "{:.0%}", compared=False),
    Figure("p50", "p50 ms", "{:.3f}"),
    Figure("p99", "p99 ms", "{:.3f}"),
    Figure("cpu", "CPU µs/req", "{:.2f}"),
    Figure("memory", "peak MiB", "{:.1f}", combine=max),
    Figure("others", "others", "{:.0%}", compared=False, combine=max),
    Figure("errors", "errors", "{:,}", compared=False, combine=sum),
)
IDLE_FIGURES = (
    Figure("pss", "PSS B/conn", "{:,.0f}"),
    Figure("rss", "RSS B/conn", "{:,.0f}"),
    Figure("rest", "at rest MiB", "{:.1f}"),
    Figure("before", "fresh ms before", "{:.3f}"),
    Figure("after", "fresh ms after", "{:.3f}"),
    Figure("slower", "after/before", "{:.2f}", compared=False),
    Figure("after_p99", "p99 ms after", "{:.3f}"),
    Figure("closed", "closed", "{:,}", compared=False, combine=sum),
)

# The ratios to the better peer that lb-threads is built to reach, by size of the responses and connections.
LOAD_BARS = {
    (SMALL, 1): {"rate": 1.10, "cpu": 0.85, "p99": 1.0},
    (SMALL, 16): {"rate": 1.20, "cpu": 0.78, "p99": 0.8},
    (SMALL, 64): {"rate": 1.00, "cpu": 0.80, "p99": 0.8},
    (SMALL, 256): {"rate": 1.25, "cpu": 0.70, "p99": 0.7},
    (SMALL, 1000): {"rate": 1.25, "cpu": 0.70, "p99": 0.7},
    (LARGE, 16): {"rate": 1.0, "cpu": 0.6},
}
NEW_CONNECTIONS_BARS = {"rate": 1.05, "cpu": 0.95}


@dataclass
class Block:
    """One table of the report: a load, or the idle connections."""

    title: str
    figures: tuple
    values: dict  # balancer -> figure's key -> number
    ratios: dict  # figure's key -> lb-threads to the better peer
    changes: dict  # figure's key -> lb-threads to the lb-threads before
    bars: dict  # figure's key -> (text of the bar, whether it is met)
    runs: dict  # balancer -> what each round gave


def combined(figures, runs):
    """The runs of one balancer as one number for each figure."""
    values = {f.key: f.combine(run[f.key] for run in runs) for f in figures if f.key in runs[0]}
    if "rate" in values and len(runs) > 1:
        rates = [run["rate"] for run in runs]
        values["spread"] = (max(rates) - min(rates)) / values["rate"]
    if "before" in values:
        values["slower"] = values["after"] / values["before"]
    return values


def ratios_to_better_peer(figures, values):
    """For each figure on its own: the better peer may be nginx in one and HAProxy in another."""
    return ratios_to_best(figures, values, [found for name, found in values.items() if name not in (OURS, BEFORE)])


def ratios_to_before(figures, values):
    return ratios_to_best(figures, values, [values[BEFORE]] if BEFORE in values else [])


def ratios_to_best(figures, values, peers):
    if OURS not in values or not peers:
        return {}
    ratios = {}
    for figure in (f for f in figures if f.compared):
        best = (max if figure.more_is_better else min)(peer[figure.key] for peer in peers)
        if best > 0:
            ratios[figure.key] = values[OURS][figure.key] / best
    return ratios


def load_block(work: Work, runs):
    runs = {name: found for name, found in runs.items() if found}
    values = {name: combined(LOAD_FIGURES, found) for name, found in runs.items()}
    ratios = ratios_to_better_peer(LOAD_FIGURES, values)
    wanted = NEW_CONNECTIONS_BARS if work.new_connections else LOAD_BARS.get((work.path, work.connections), {})
    bars = {}
    for key, bar in wanted.items():
        if key in ratios:
            more = next(f.more_is_better for f in LOAD_FIGURES if f.key == key)
            # The printed value is compared: a ratio that is shown as 1.00 meets a bar of 1.00.
            shown = round(ratios[key], 2)
            bars[key] = (f"{'≥' if more else '≤'} {bar:.2f}", shown >= bar if more else shown <= bar)
    return Block(work.title, LOAD_FIGURES, values, ratios, ratios_to_before(LOAD_FIGURES, values), bars, runs)


def idle_block(count, runs):
    runs = {name: found for name, found in runs.items() if found}
    values = {name: combined(IDLE_FIGURES, found) for name, found in runs.items()}
    bars = {}
    if OURS in values:
        ours = values[OURS]
        bars = {
            "pss": (f"≤ {IDLE_BYTES_BAR} B", round(ours["pss"]) <= IDLE_BYTES_BAR),
            "slower": (f"≤ {IDLE_LATENCY_BAR:.2f}", round(ours["slower"], 2) <= IDLE_LATENCY_BAR),
            "closed": ("0", ours["closed"] == 0),
        }
    title = f"{count:,} idle keep-alive connections, each after one request"
    ratios, changes = ratios_to_better_peer(IDLE_FIGURES, values), ratios_to_before(IDLE_FIGURES, values)
    return Block(title, IDLE_FIGURES, values, ratios, changes, bars, runs)


def rows_of(block):
    """A block as rows of text: the head, a row a balancer, the ratios, the bars."""
    rows = [["", *(f.title for f in block.figures)]]
    for name, values in block.values.items():
        rows.append([name, *(f.form.format(values[f.key]) if f.key in values else "-" for f in block.figures)])
    if block.ratios:
        ratios = (f"{block.ratios[f.key]:.2f}" if f.key in block.ratios else "" for f in block.figures)
        rows.append(["ratio to better peer", *ratios])
    if block.changes:
        changes = (f"{block.changes[f.key]:.3f}" if f.key in block.changes else "" for f in block.figures)
        rows.append(["ratio to before", *changes])
    if block.bars:
        bars = [block.bars.get(f.key) for f in block.figures]
        rows.append(["bar", *(bar[0] if bar else "" for bar in bars)])
        rows.append(["", *(("met" if bar[1] else "MISSED") if bar else "" for bar in bars)])
    return rows


def aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join("  " + line for line in lines)


def markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def complaints(block):
    """Warnings about the numbers above."""
    for name, values in block.values.items():
        if values.get("errors"):
            yield f"{name} had {values['errors']:,} errors: its other figures here mean little"
        if values.get("closed"):
            yield f"{name} closed {values['closed']:,} of the idle connections: its bytes per connection mean little"
        if values.get("others", 0) > OTHERS_LIMIT:
            yield f"other programs took {values['others']:.0%} of the cores in a run of {name}: do not trust it"
        if values.get("spread", 0) > 0.15:
            yield f"the rounds of {name} differ by {values['spread']:.0%}: run longer, or on a quieter machine"


def render(blocks, facts, as_markdown):
    """The whole report as text."""
    title = "lb-threads beside its peers"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rounds = "1 round" if facts["rounds"] == 1 else f"medians of {facts['rounds']} rounds, interleaved"
    lines = [
        f"## {title}" if as_markdown else title,
        "",
        f"{versions}; {facts['cores']} cores, Linux {facts['kernel']}; {rounds}, {facts['seconds']} s per load.",
        "Load generator, balancer and backends share the cores: only ratios mean something.",
    ]
    for block in blocks:
        rows = rows_of(block)
        lines += ["", f"### {block.title}" if as_markdown else block.title, ""]
        lines.append(markdown(rows) if as_markdown else aligned(rows))
        notes = list(complaints(block))
        if notes:
            lines += ["", *(f"{'- ' if as_markdown else '  ! '}{note}" for note in notes)]
    results = [met for block in blocks for _, met in block.bars.values()]
    if results:
        lines += ["", f"{sum(results)} of {len(results)} bars met."]
    return "\n".join(lines)


def as_json(blocks, facts):
    """Everything, each round included, for a program to read."""
    return json.dumps(
        facts
        | {
            "blocks": [
                {
                    "title": block.title,
                    "median": block.values,
                    "ratio_to_better_peer": block.ratios,
                    "bars": {key: {"bar": text, "met": met} for key, (text, met) in block.bars.items()},
                    "rounds": block.runs,
                }
                for block in blocks
            ]
        },
        indent=2,
        ensure_ascii=False,
    )
