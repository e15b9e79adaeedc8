"""Arms of a study compared in pairs, in groups of the same queries: gains, p values, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmrs.statistics import holm, seeds_difference, sign_flip_test


def comparisons(
    values: Mapping[str, Sequence[np.ndarray]],
    compared: Sequence[tuple[str, str, str]],
    groups: Mapping[str, np.ndarray],
    *,
    called: str,
) -> list[dict]:
    """One row for each (group, arm, against): the gain with its interval, p, and p after Holm over all rows.

    values: an array of all queries for each seed, by arm. groups: bool of each query, by name. called: the column of the group.
    """
    rows = []
    for group, one, two in compared:
        x, y = (np.stack(values[arm])[:, groups[group]] for arm in (one, two))
        gain = seeds_difference(x, y, seed=0)
        p = sign_flip_test(x.mean(0), y.mean(0), seed=0)
        rows.append({called: group, "arm": one, "against": two, "gain": [gain.mean, gain.low, gain.high], "p": float(p)})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def table(rows: Sequence[dict], *, called: str, gain: str = "gain") -> list[str]:
    """The rows in Markdown, an empty line first."""
    lines = ["", f"| {called} | arm | against | {gain} | p (Holm) |", "|---|---|---|---|---|"]
    for row in rows:
        mean, low, high = row["gain"]
        lines.append(
            f"| {row[called]} | {row['arm']} | {row['against']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |"
        )
    return lines
