"""Figures, bars and tables from the measurements, and docs/benchmarks.md with its two plots.

`Results` are the measurements of `python -m bench`, as JSON: "alone" (fills and refreshes, first by
transport), "fresh" (delays in seconds), "steady" (see Steady.figures of bench.phases), all by
contender; "growth" by number of symbols; "local_api" (see bench.local_api.measure), "log_ms",
"rare_log_ms", "machine".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.local_api import CLIENTS, RATE
from bench.measure import ROOT, percentile
from bench.programs import BEFORE, CONTENDERS, SERVICE
from bench.tls import PLAIN, TLS

Results = dict[str, Any]
OWN_WEIGHT_LIMIT = 1200  # the default of WEIGHT_LIMIT
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
AIOHTTP = ("aiohttp", "aiohttp8")
PROMISED = 100  # symbols; there is no bar for more
PROMISED_MB, PROMISED_CPU = 90, 15  # peak memory and % of a core with so many symbols
TITLES = {contender.key: contender.title for contender in CONTENDERS}


class Figure(NamedTuple):
    """A column: its name, its unit, the format of its numbers."""

    name: str
    unit: str
    written: str


FIGURES = {
    "fill": Figure("cold fill", "s", ".2f"),
    "refresh": Figure("refresh", "ms", ".0f"),
    "fresh50": Figure("freshness p50", "s", ".2f"),
    "fresh99": Figure("freshness p99", "s", ".2f"),
    "requests_h": Figure("requests", "/h", ",.0f"),
    "weight_h": Figure("weight", "/h", ",.0f"),
    "mb_h": Figure("bytes", "MB/h", ",.1f"),
    "cpu_h_s": Figure("CPU", "s/h", ".1f"),
    "peak_mb": Figure("peak memory", "MB", ".0f"),
    "turns": Figure("Redis round trips", "/refresh", ".1f"),
    "commands": Figure("Redis commands", "/refresh", ".0f"),
}


def figures(results: Results, key: str) -> dict[str, float]:
    """All FIGURES of a contender; medians for times."""
    steady, fresh = results["steady"][key], results["fresh"].get(key, [])
    found = {name: value for name, value in steady.items() if name in FIGURES}
    found["mb_h"] = steady["bytes_h"] / 1e6
    alone = results["alone"][PLAIN][key]
    found["fill"] = statistics.median(alone["fill_s"])
    found["refresh"] = 1000 * statistics.median(alone["refresh_s"])
    for name, share in (("fresh50", 0.5), ("fresh99", 0.99)):
        found[name] = percentile(fresh, share) if fresh else float("nan")
    return {name: found[name] for name in FIGURES}


class Costs(NamedTuple):
    """What a contender needs by itself, with TLS or without; medians."""

    fill_s: float
    cpu_ms: float  # of a refresh
    peak_mb: float  # until the end of the cold fill


def costs(results: Results, transport: str, key: str) -> Costs:
    alone = results["alone"][transport][key]
    fill_s, peak_mb = (statistics.median(alone[name]) for name in ("fill_s", "peak_mb"))
    return Costs(fill_s, 1000 * alone["refresh_cpu_s"], peak_mb)


class Bar(NamedTuple):
    """The target for a figure, and its measured value, nan if it was not observed."""

    what: str
    wanted: float
    measured: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured <= self.wanted

    def cells(self) -> list[str]:
        verdict = "met" if self.met else "**NOT met**"
        seen = "not seen" if math.isnan(self.measured) else f"{self.measured:.3g}{self.unit}"
        return [self.what, f"≤ {self.wanted:g}{self.unit}", seen, verdict]


def bars(results: Results) -> list[Bar]:
    """The project's own bars, in the order in which they were set."""
    return [*_first_bars(results), *_tls_bars(results)]


def _tls_bars(results: Results) -> list[Bar]:
    plain, tls = (costs(results, transport, SERVICE.key) for transport in (PLAIN, TLS))
    return [
        Bar("over TLS: cold fill, of that without", 1.3, tls.fill_s / plain.fill_s),
        Bar("over TLS: CPU of a refresh, of that without", 1.3, tls.cpu_ms / plain.cpu_ms),
        Bar("over TLS: more peak memory", 5, tls.peak_mb - plain.peak_mb, " MB"),
    ]


def _first_bars(results: Results) -> list[Bar]:
    all_ = {key: figures(results, key) for key in results["steady"]}
    ours, before = all_[SERVICE.key], all_[BEFORE.key]
    others = [found for key, found in all_.items() if key != SERVICE.key]
    cpu = min(all_[key]["cpu_h_s"] for key in AIOHTTP if key in all_)
    grown = results["growth"][str(PROMISED)]
    lacking = grown["failed"] + grown["skipped"]
    if "4h" not in grown["median_ms"]:  # its only refresh ended after the window
        lacking = lacking or math.nan
    return [
        Bar("cold fill, of the fastest other", 0.8, ours["fill"] / min(o["fill"] for o in others)),
        Bar(
            "refresh, of the fastest other",
            0.8,
            ours["refresh"] / min(o["refresh"] for o in others),
        ),
        Bar("bytes an hour, of before", 0.02, ours["mb_h"] / before["mb_h"]),
        Bar("requests an hour, of before", 0.5, ours["requests_h"] / before["requests_h"]),
        Bar("freshness p99", 1.2, ours["fresh99"], " s"),
        Bar("freshness p99, of before", 0.1, ours["fresh99"] / before["fresh99"]),
        Bar("CPU an hour, of aiohttp", 0.5, ours["cpu_h_s"] / cpu),
        Bar("peak memory", 65, ours["peak_mb"], " MB"),
        Bar("Redis round trips a refresh", 2, round(ours["turns"], 2)),
        Bar(
            "filtered query of a full message log, p99",
            25,
            percentile(results["log_ms"], 0.99),
            " ms",
        ),
        Bar(
            "query of a full rare stream, p99", 10, percentile(results["rare_log_ms"], 0.99), " ms"
        ),
        Bar(
            f"local API at {RATE} answers a second, p99",
            10,
            results["local_api"]["paced"]["p99_ms"],
            " ms",
        ),
        Bar(f"{PROMISED} symbols: peak memory", PROMISED_MB, grown["peak_mb"], " MB"),
        Bar(f"{PROMISED} symbols: CPU, of a core", PROMISED_CPU, 100 * grown["cpu_share"], " %"),
        Bar(f"{PROMISED} symbols: answers 429", 0, grown["refused"]),
        Bar(f"{PROMISED} symbols: refreshes skipped or symbols left out", 0, lacking),
    ]


# --- tables ---


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], written: str) -> str:
    """The median, and the range from the smallest to the largest."""
    low, high = format(min(values), written), format(max(values), written)
    return f"{format(statistics.median(values), written)} ({low} to {high})"


def ratios_table(results: Results) -> str:
    """Each figure of the others as a multiple of the service's."""
    ours = figures(results, SERVICE.key)
    rows = []
    for key in results["steady"]:
        its = figures(results, key)
        ratios = [its[name] / ours[name] if ours[name] else float("nan") for name in FIGURES]
        rows.append(
            [TITLES[key], *(f"{ratio:.2g}" if ratio < 9.95 else f"{ratio:.0f}" for ratio in ratios)]
        )
    return table(["times as much", *(figure.name for figure in FIGURES.values())], rows)


def absolute_table(results: Results) -> str:
    rows = []
    for key in results["steady"]:
        its = figures(results, key)
        cells = {name: format(its[name], figure.written) for name, figure in FIGURES.items()}
        alone = results["alone"][PLAIN][key]
        cells["fill"] = spread(alone["fill_s"], ".2f")
        cells["refresh"] = spread([1000 * s for s in alone["refresh_s"]], ".0f")
        rows.append([TITLES[key], *cells.values()])
    names = [f"{figure.name}, {figure.unit}" for figure in FIGURES.values()]
    return table(["", *names], rows)


def tls_table(results: Results) -> str:
    """Each contender over TLS, and beside itself without."""
    rows = []
    for key in results["steady"]:
        plain, tls = (costs(results, transport, key) for transport in (PLAIN, TLS))
        rows.append(
            [
                TITLES[key],
                spread(results["alone"][TLS][key]["fill_s"], ".2f"),
                f"{tls.fill_s / plain.fill_s:.2f}",
                f"{tls.cpu_ms:.0f}",
                f"{tls.cpu_ms / plain.cpu_ms:.2f}",
                f"{tls.peak_mb:.0f}",
                f"{tls.peak_mb - plain.peak_mb:+.1f}",
            ]
        )
    head = [
        "over TLS",
        "cold fill, s",
        "times that without",
        "CPU of a refresh, ms",
        "times that without",
        "peak memory of the fill, MB",
        "more than without",
    ]
    return table(head, rows)


def local_table(results: Results) -> str:
    local = results["local_api"]
    rows = [
        [asked, f"{its['rate']:,.0f}", f"{its['p50_ms']:.1f}", f"{its['p99_ms']:.1f}"]
        for asked, its in ((f"{RATE:,} a second", local["paced"]), ("as may be", local["free"]))
    ]
    head = [f"asked by {CLIENTS} clients", "answers a second", "p50, ms", "p99, ms"]
    took = f"{min(local['refreshes_ms'])} to {max(local['refreshes_ms'])} ms"
    return (
        f"{table(head, rows)}\n\nMeanwhile a refresh took {took}; {local['skipped']} were skipped."
    )


def growth_table(results: Results) -> str:
    head = [
        "symbols",
        "weight a minute",
        "requests in 5 minutes",
        "refresh 5m, ms",
        "1h",
        "4h",
        "left out",
        "at the start",
        "429",
        "CPU, % of a core",
        "peak memory, MB",
    ]
    rows = []
    for number, its in results["growth"].items():
        times = [
            f"{its['median_ms'][name]:.0f} (to {its['longest_ms'][name]:.0f})"
            if name in its["median_ms"]
            else ""
            for name in ("5m", "1h", "4h")
        ]
        rows.append(
            [
                number,
                f"{its['weight_min']:.0f}",
                f"{its['requests_5min']:.0f}",
                *times,
                str(its["failed"] + its["skipped"]),
                str(its["failed_at_start"]),
                str(its["refused"]),
                f"{100 * its['cpu_share']:.1f}",
                f"{its['peak_mb']:.0f}",
            ]
        )
    return table(head, rows)


def bars_table(results: Results) -> str:
    return table(["bar", "wanted", "measured", ""], [bar.cells() for bar in bars(results)])


# --- the page ---


def page_text(results: Results) -> str:
    """The text between the markers of docs/benchmarks.md."""
    return f"""{BEGIN}

{results["machine"]}

### Bars

{bars_table(results)}

### Ratios

{ratios_table(results)}

![Each figure as a multiple of the service's](benchmarks-ratios.svg)

### Absolute figures

{absolute_table(results)}

### Over TLS

{tls_table(results)}

### The local API

{local_table(results)}

### Growth

{growth_table(results)}

Dashed in the plots: the default of `WEIGHT_LIMIT`, and the bars of CPU and memory, which end at
{PROMISED} symbols.

![Weight, CPU and memory against symbols](benchmarks-growth.svg)

{END}"""


def write(results: Results, page: Path = PAGE) -> None:
    """Put the figures into the page and the plots beside it; nothing else of the page changes."""
    text = page.read_text()
    head, _, rest = text.partition(BEGIN)
    page.write_text(head + page_text(results) + rest.partition(END)[2])
    _plots(results, page.parent)


def _plots(results: Results, folder: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    shown = ("fill", "refresh", "fresh99", "requests_h", "mb_h", "cpu_h_s", "peak_mb")
    ours = figures(results, SERVICE.key)
    plot, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    keys = [key for key in results["steady"] if key != SERVICE.key]
    for place, key in enumerate(keys):
        its = figures(results, key)
        heights = [its[name] / ours[name] for name in shown]
        offset = (place - (len(keys) - 1) / 2) * 0.8 / len(keys)
        axes.bar(
            [x + offset for x in range(len(shown))], heights, 0.8 / len(keys), label=TITLES[key]
        )
    axes.axhline(1, color="black", linewidth=1, label=TITLES[SERVICE.key])
    axes.set_yscale("log")
    axes.set_ylabel("times the service's (less is better)")
    axes.set_xticks(range(len(shown)), [FIGURES[name].name for name in shown])
    axes.legend(fontsize="small")
    plot.savefig(folder / "benchmarks-ratios.svg", metadata={"Date": None})
    pyplot.close(plot)

    grown = {int(number): its for number, its in results["growth"].items()}
    service = results["steady"][SERVICE.key]
    grown[29] = {
        "weight_min": service["weight_h"] / 60,
        "peak_mb": service["peak_mb"],
        "cpu_share": service["cpu_h_s"] / 3600,
    }
    numbers = sorted(grown)
    plot, panels = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axes, (name, label, factor, limit, up_to) in zip(
        panels,
        (
            ("weight_min", "weight a minute", 1, OWN_WEIGHT_LIMIT, numbers[-1]),
            ("cpu_share", "CPU, % of a core", 100, PROMISED_CPU, PROMISED),
            ("peak_mb", "peak memory, MB", 1, PROMISED_MB, PROMISED),
        ),
        strict=True,
    ):
        axes.plot(numbers, [factor * grown[n][name] for n in numbers], marker="o")
        axes.hlines(limit, 0, up_to, colors="gray", linestyles="--", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("symbols")
        axes.set_title(label)
    plot.savefig(folder / "benchmarks-growth.svg", metadata={"Date": None})
    pyplot.close(plot)
