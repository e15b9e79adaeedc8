"""docs/performance.md from the JSON files in benchmarks/results: `python -m benchmarks.page`. No figure is written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.beside import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
HEAD = """# Performance

Written by `python -m benchmarks.page` from the files in `benchmarks/results/`; each says when, on what and with which versions it
was measured. `make bench DATA=FOLDER` measures again; times to quality and torch.compile take hours and are run by name
(`python -m benchmarks quality compiled --data-root FOLDER`). Peers live in environments of their own
(`python -m benchmarks.peers install all`); one that is missing is named as missing.

How to read it: figures are processor seconds of one thread, because the machine was shared with other work (its load is in the
files; with two hardware threads on one core, figures of all sides are lower than on a quiet machine). Sides take turns in fresh
processes. **Ratios are how many times better lmrs is**, round by round: median [smallest, largest]. For R rounds that interval
holds the true median with probability 1 - 2^(1 - R): a figure of one round has none, and is a first look. Peak memory is that of
a whole fresh process. Older than the kernels in C for attention and the states that are ranked by, so with figures of lmrs that
are too low: rate-ml-1m-all-peers, rate-skewed-bf16, and the times to quality (but not those with a peer in their
name). Tables without wall seconds are older than the rule that the whole process of each side is timed, too.
"""
# What the project asked of itself for each benchmark, and what has no figure yet.
GOALS = {
    "rate-": "Goal: 2x (ml-100k), 6x (ml-1m), 20x (amazon-beauty) the best peer, 3x (skewed); 55 % of the fp32 roofline on "
    "amazon-beauty. Tables that end in -bf16 have lmrs with `--precision bf16-loss` (the others are fp32 and exact). "
    "'rectools sampled' is its sampled softmax with 256 negatives, another loss; RecBole trains one target a row. Tables that "
    "end in -sampled are of that loss; goal there: 2x RecTools, aim 10x.",
    "skewed": "Goal: 3x padded peers. The same network on the same rows; loss and gradients are compared first.",
    "quality-": "Goal: 3x RecTools and RePlay, 10x RecBole. The figures are of validation. 'lmrs averaged' (a higher rate, "
    "averaged weights, and attention dropout or more hidden items) was chosen by validation on the same users with other "
    "seeds. Tables that end in a peer's name are newer and of that peer alone.",
    "ranking-": "Goal: 3x the best peer. RecBole leaves seen items in, which is less work; the others mask them.",
    "validating-": "Goal: evaluating ml-1m takes under 5 % of an epoch. 'lmrs torch' is without C: its epoch is slower, too.",
    "loss-": "Goal: twice the speed and a tenth of the memory of `cross_entropy(h @ E.T)`, gradients within 1e-5 of fp64.",
    "sampled-loss": "Goal: 5x RecTools, aim 10x. It scores each place's own negatives, at padded places, too; lmrs scores shared "
    "ones at real targets. 'plain' is the loss of lmrs written in plain torch.",
    "serving-": "Goal: warm p99 under 5 ms at 12,000 items; a cold start of half the best peer's. 'lmrs' is `Recommender`, "
    "'lmrs quick' `QuickRecommender`, which reads the same folder by NumPy alone, one history at a time: `lmrs recommend` "
    "takes it where it can. implicit imports no torch either.",
    "measures": "Goal: no slower than ranx.",
    "topk-": "Masking, top-10 and the rank of the truth from given scores, beside a dense mask and `topk`.",
    "checkpoint": "Goal: at most 2 % of wall time for a save every 200 updates.",
    "compiled-": "Compiling pays where the first table's gain makes good the second one's loss; a long `lmrs fit` probes it.",
    "prepare": "Goal: no slower than RePlay, 5x RecBole, memory at most twice the file.",
}
NOT_MEASURED = {  # by the name that the result would have
    "ranking-ml-100k": "full-rank evaluation on ml-100k beside peers",
    "ranking-ml-1m": "full-rank evaluation on ml-1m beside peers",
    "validating-ml-1m": "evaluating all of ml-1m as a share of an epoch",
    "serving-1000000": "recommending for one history among a million items",
    "quality-sasrec-ml-100k": "time to a peer's final NDCG@10 with SASRec",
    "quality-bert4rec-ml-100k": "time to a peer's final NDCG@10 with BERT4Rec",
    "quality-sampled-ml-100k": "sampled softmax beside peers at equal final quality",
    "sampled-loss": "sampled softmax alone beside RecTools' on the same states",
    "rate-amazon-beauty-sampled": "training with sampled softmax beside RecTools",
    "rate-skewed": "skewed lengths beside peers themselves (a padded loop stands for them)",
    "growth-items": "curves of time and memory against items (the tables of several sizes show some)",
    "growth-users": "curves of time and memory against users",
    "growth-length": "curves of time and memory against length",
    "growth-width": "curves of time and memory against width",
    "processes": "two processes under torchrun beside one with two threads",
    "compiled-ml-100k": "torch.compile",
    "gpu": "anything on a GPU",
}


def shown(values: list[Any] | None) -> str:
    """median [low, high], with as many digits as a reader needs; None among them: never."""
    if not values:
        return "-"
    return f"{_digits(values[0])} [{_digits(values[1])}, {_digits(values[2])}]"


def _digits(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(sides: dict[str, Any]) -> list[str]:
    """One row a side, and an empty line."""
    share = any("share_of_roofline" in side for side in sides.values())
    spent = any("wall" in side for side in sides.values())
    more = (" whole process: wall, processor seconds |" if spent else "") + (" of fp32 roofline |" if share else "")
    out = [
        f"| side | value | lmrs is so many times better | peak MiB |{more}",
        "|---|---|---|---|" + "---|" * (spent + share),
    ]
    for name, side in sides.items():
        if "missing" in side:
            out.append(f"| {name} | missing: {side['missing']} | | |" + " |" * (spent + share))
            continue
        start = name.split()[0][:5]
        version = next((f" {number}" for package, number in side["versions"].items() if package.startswith(start)), "")
        took = f" {shown(side['wall'])}, {shown(side['processor'])} |" if "wall" in side else " |" if spent else ""
        part = f" {100 * side['share_of_roofline']:.1f} % |" if "share_of_roofline" in side else " |" if share else ""
        out.append(
            f"| {name}{version} | {shown(side['value'])} | {shown(side.get('ratio'))} | {side['peak_mib']:,} |{took}{part}"
        )
    return [*out, "", *_settings({name: side["asked"] for name, side in sides.items() if side.get("asked")})]


def _settings(told: dict[str, str]) -> list[str]:
    """What each side was asked for, folded."""
    if not told:
        return []
    return [f"<details><summary>Settings</summary>{'; '.join(f'{name}: {each}' for name, each in told.items())}</details>", ""]


def section(name: str, report: dict[str, Any]) -> list[str]:
    about = report["about"]
    facts = ", ".join(f"{key.replace('_', ' ')} {_fact(value)}" for key, value in report.get("data", {}).items())
    rounds = f"{report['rounds']} round{'s' * (report['rounds'] != 1)}"
    how = f"{report['what']}. {facts}. {rounds}, {about['date']}, {about['processor']}."
    out = [f"## {name}", "", how, ""]
    if limit := report.get("roofline"):
        out += [
            f"Roofline: {limit['megaflop_a_target']} MFLOP a target, forward and backward, at {limit['fp32_gflops']} GFLOP/s",
            f"(the best 1024 x 1024 fp32 product in the same processes): {limit['targets_a_second']:,} targets a second.",
            "",
        ]
    if curve := report.get("curve"):
        out += [*_curve(name, curve), ""]
    if ends := report.get("reached"):
        out += [*_reached(ends), "", *_settings(report.get("processes", {}))]
    for part, sides in report.get("parts", {"": report["sides"]} if "sides" in report else {}).items():
        out += [*([f"**{part}**", ""] if part else []), *table(sides)]
    return out


def _reached(ends: dict[str, Any]) -> list[str]:
    """Who had a peer's final quality after how long."""
    out = [
        "| peer | its final NDCG@10 | its seconds | seconds of lmrs to that | lmrs is so many times faster | best of lmrs |",
        "|---|---|---|---|---|---|",
    ]
    for name, end in ends.items():
        if "missing" in end:
            out.append(f"| {name} | missing: {end['missing']} | | | | |")
            continue
        mine = shown(end["lmrs_seconds"]) if "lmrs_seconds" in end else "never reached"
        if some := end.get("reached_by"):
            mine += f" ({end['lmrs_side']}; {some[0]} of {some[1]} runs)"
        figures = [shown(end["quality"]), shown(end["peer_seconds"]), mine, shown(end.get("ratio")), shown(end["lmrs_best"])]
        out.append(f"| {name} | " + " | ".join(figures) + " |")
    return out


def _curve(name: str, points: list[dict[str, Any]]) -> list[str]:
    """The points as a table, with how fast each column grows between the last two: the exponent of a power law."""
    axis = name.partition("-")[2]
    out = [
        f"![time and memory against {axis}]({name}.svg)",
        "",
        f"| {axis} | update, ms | expected by operations | ranking 256 users, ms | memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        cells = [shown(point[what]) for what in ("train", "rank", "memory")]
        out.append(f"| {point['at']:,} | {cells[0]} | {_digits(point['expected'])} | {cells[1]} | {cells[2]} |")
    if len(points) > 1:
        a, b = points[-2:]
        steps = [
            math.log(max(y, 1e-9) / max(x, 1e-9)) / math.log(b["at"] / a["at"])
            for x, y in [
                (a["train"][0], b["train"][0]),
                (a["expected"], b["expected"]),
                *((a[w][0], b[w][0]) for w in ("rank", "memory")),
            ]
        ]
        out.append("| grows with the power | " + " | ".join(f"{step:.2f}" for step in steps) + " |")
    return out


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_fact(each)}" for key, each in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.2g}" if value % 1 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The whole page. results: reports by name."""
    lines = [HEAD]
    for start, goal in GOALS.items():
        found = [name for name in sorted(results) if name.startswith(start)]
        if found:
            lines += [goal, ""]
        for name in found:
            lines += section(name, results[name])
    known = {name for name in results for start in GOALS if name.startswith(start)}
    lines += [line for name in sorted(set(results) - known) for line in section(name, results[name])]
    open_ = [text for name, text in NOT_MEASURED.items() if name not in results]
    lines += ["## Not measured", "", *(f"- {text}" for text in open_), ""]
    return "\n".join(lines)


def drawn(name: str, points: list[dict[str, Any]]) -> str:
    """The curve as SVG: time of an update and of ranking, and memory, on two logarithmic axes."""
    axis = name.partition("-")[2]
    series = {
        "update, ms": ("#1f6feb", [(p["at"], p["train"][0]) for p in points]),
        "expected": ("#9aa4b2", [(p["at"], p["expected"]) for p in points]),
        "ranking, ms": ("#bf5b04", [(p["at"], p["rank"][0]) for p in points]),
        "memory, MiB": ("#2c8a3a", [(p["at"], max(p["memory"][0], 1)) for p in points]),
    }
    values = [y for _, line in series.values() for _, y in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, right = math.log10(points[0]["at"]), math.log10(points[-1]["at"])

    def place(x: float, y: float) -> tuple[float, float]:
        return 70 + 400 * (math.log10(x) - left) / (right - left), 270 - 240 * (math.log10(y) - low) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="640" height="320" font-family="sans-serif" font-size="12">']
    out.append('<rect width="640" height="320" fill="white"/>')
    for power in range(low, high + 1):
        _, y = place(points[0]["at"], 10**power)
        out.append(
            f'<path d="M70 {y:.1f}H470" stroke="#e1e4e8"/><text x="62" y="{y + 4:.1f}" text-anchor="end">{10**power:,g}</text>'
        )
    for point in points:
        x, _ = place(point["at"], 10**low)
        out.append(f'<text x="{x:.1f}" y="290" text-anchor="middle">{point["at"]:,}</text>')
    out.append(f'<text x="270" y="310" text-anchor="middle">{axis}</text>')
    for at, (label, (colour, line)) in enumerate(series.items()):
        spots = [place(x, y) for x, y in line]
        dashes = ' stroke-dasharray="5 4"' if label == "expected" else ""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        y = 60 + 22 * at
        out.append(f'<path d="M485 {y}h22" stroke="{colour}" stroke-width="2"{dashes}/><text x="512" y="{y + 4}">{label}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    PAGE.write_text(page(results))
    for name, report in results.items():
        if len(report.get("curve", [])) > 1:
            (PAGE.parent / f"{name}.svg").write_text(drawn(name, report["curve"]))
    print(f"{PAGE}: {len(results)} results")


if __name__ == "__main__":
    main()
