"""Rows of the suites kmeans and neighbours, their table and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import gate, machine
from ..cases import Case, KMeansJob
from ..report import seconds
from ..runner import Result, Row
from ..timing import median, quantile

_TITLES = {
    "lloyd": "same start, {iters} iterations",
    "fit": "whole fits, as users call them",
    "knn": "exact search",
}


@dataclass
class JudgedRow(Row):
    """The runs of one contestant.

    Attributes:
        kind: ``"lloyd"``, ``"seeding"``, ``"fit"`` or ``"knn"``.
        cold: Seconds of the first call in its process, imports excluded. None where something else
            ran before.
        warm: Seconds of the later calls.
        verdicts: The gate's verdicts, by the digest of the result.
        inertias: Float64 inertia of each run.
        rates: Multiply-adds a second of our warm runs, as if all products had been computed.
        n_iter, passes, backend, engine: Of the last run, see `Outcome`.
    """

    kind: str = "lloyd"
    cold: float | None = None
    warm: list[float] = field(default_factory=list)
    verdicts: dict[str, gate.Verdict] = field(default_factory=dict)
    inertias: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    n_iter: int = 0
    passes: float = 0.0
    backend: str = ""
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        name = f"{self.contestant.name} ({self.backend})" if self.backend else self.contestant.name
        return f"{name}, seeding" if self.kind == "seeding" else name

    @property
    def times(self) -> list[float]:
        """Seconds of the warm runs; none unless the result is right."""
        return [] if self.problem else self.warm

    @property
    def inertia(self) -> float | None:
        """Mean float64 inertia of the runs; None if there is none, or if it is not finite."""
        known = self.inertias and np.isfinite(self.inertias).all()
        return float(np.mean(self.inertias)) if known else None

    @property
    def regret(self) -> float:
        """Largest label regret of all runs."""
        return max((verdict.regret for verdict in self.verdicts.values()), default=0.0)

    @property
    def rate(self) -> float | None:
        """Median of the rates; None if there are none."""
        return median(self.rates) if self.rates else None

    @property
    def remark(self) -> str:
        """A remark for the table."""
        if self.problem:
            return self.problem.split(":")[0]
        if not self.times:
            return "..."
        if self.contestant.yardstick:
            return f"{self.n_iter} passes"
        note = self.contestant.fit_note if self.kind == "fit" else self.contestant.note
        return note or "ok"

    def as_json(self) -> dict[str, Any]:
        times = self.times
        return {
            "contestant": self.contestant.name,
            "kind": self.kind,
            "backend": self.backend,
            "engine": self.engine,
            "rate": self.rate,
            "note": self.contestant.note,
            "verdict": self.problem or ("ok" if times else "not run"),
            "cold": self.cold if times else None,
            **{f"p{q}": quantile(times, q / 100) if times else None for q in (20, 50, 80)},
            "runs": len(times),
            "iterations": self.n_iter,
            "inertia": self.inertia,
            "regret": self.regret,
        }


@dataclass
class JudgedResult(Result):
    """All rows of a job.

    Attributes:
        memory: Peak memory of our fit beyond the input, in bytes.
        peaks: Multiply-adds a second of the CPU at its peak, by type; see `peaks.measure`.
        bound: The bound of that.
        rows_judged: Labels or queries that the gate judged.
        shortage: How many points there are, where these are fewer than the case asks for.
    """

    job: KMeansJob
    rows: list[JudgedRow]
    memory: int | None = None
    peaks: dict[str, float | None] = field(default_factory=dict)
    bound: int = 0
    rows_judged: int = 0
    shortage: str = ""

    def take_sizes(self, made: Case) -> None:
        """Take the case with the sizes that its data have, and note what is missing."""
        asked = self.job.case
        if made != asked:
            self.shortage = (
                f"only {made.N:,} x {made.D} of {asked.N:,} x {asked.D} values can be made here"
            )
        self.job = replace(self.job, case=made)

    def section(self, kind: str) -> list[JudgedRow]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def base(self, kind: str) -> JudgedRow | None:
        """Return our first row that has times, with which the others are compared."""
        return next((row for row in self.section(kind) if row.ours and row.times), None)

    def standard(self, kind: str) -> JudgedRow | None:
        """Return the row whose inertia is the unit: scikit-learn's, or else the first one."""
        valid = [row for row in self.section(kind) if row.times and row.inertias]
        sklearn = [row for row in valid if row.contestant.name == "scikit-learn"]
        exact = [row for row in valid if row.contestant.same_start and not row.contestant.yardstick]
        return next(iter(sklearn or exact), None)

    def ratio(self, row: JudgedRow) -> float | None:
        """Return the row's median over that of our row of the same kind."""
        base = self.base(row.kind)
        return median(row.times) / median(base.times) if row.times and base is not None else None

    def inertia_ratio(self, row: JudgedRow) -> float | None:
        """Return the row's inertia over scikit-learn's."""
        standard = self.standard(row.kind)
        if standard is None or row.inertia is None or not standard.inertia:
            return None
        return row.inertia / standard.inertia

    def title(self) -> str:
        case = self.job.case
        title = _TITLES[self.job.kind].format(iters=case.iters)
        return f"{self.job.name}: {case.shape(self.job.kind)}: {title}"

    def cells(self, row: JudgedRow) -> dict[str, str]:
        times = row.times
        relative = self.ratio(row)
        quality = self.inertia_ratio(row)
        yardstick = row.contestant.yardstick
        judged = times and not yardstick and row.kind != "seeding"
        return {
            "contestant": row.name,
            "its": str(row.n_iter) if times and row.n_iter else "",
            "cold": seconds(row.cold) if times and not yardstick else "",
            "median": seconds(median(times)) if times else "",
            "p20-p80": _span(times) if times else "",
            "x ours": f"{relative:.2f}" if relative is not None else "",
            "inertia": f"{quality:.5f}" if quality is not None and times else "",
            "regret": f"{row.regret:.0e}" if judged else "",
            "result": row.remark,
        }

    def notes(self) -> list[str]:
        kind = self.job.kind
        case = self.job.case
        notes: list[str] = [self.shortage]
        ours = self.base(kind)
        for row in self.section("lloyd"):
            relative = self.ratio(row)
            if row.contestant.yardstick and ours is not None and relative:
                notes.append(f"{ours.name} / matmul alone: {1 / relative:.2f}")
        if self.memory is not None:
            notes.append(
                f"our peak memory beyond the input: {self.memory / 1e6:.0f} MB"
                f" (bound {self.bound / 1e6:.0f} MB)"
            )
        if self.rows_judged:
            total = case.queries or case.N if kind == "knn" else case.B * case.N
            judged = "queries" if kind == "knn" else "labels"
            notes.append(f"{judged} judged: {self.rows_judged:,} of {total:,}")
        notes += [self.device_rates(row) for row in self.section("lloyd") if row.backend == "metal"]
        lines = ["; ".join(filter(None, notes))]
        lines += [self.engine(row) for row in self.section(kind) if row.engine and row.times]
        lines += [f"{row.name}: {row.problem}" for row in self.rows if ":" in row.problem]
        return list(dict.fromkeys(filter(None, lines)))

    def device_rates(self, row: JudgedRow) -> str:
        """Return the rates of products and of reading x, which happens twice an iteration."""
        if not row.times:
            return ""
        case = self.job.case
        values = self.products(row) / case.K
        size = 4 if case.dtype == "float32" else 2
        known = machine.bandwidth()
        limit = f" of up to {known} GB/s" if known else ""
        flops = 2 * values * case.K / median(row.times) / 1e12
        reads = 2 * values * size / median(row.times) / 1e9
        return f"{row.backend}: {flops:.3g} TFLOP/s of products, x read at {reads:.3g} GB/s{limit}"

    def products(self, row: JudgedRow) -> float:
        """Return how many multiply-adds the products of points and centroids of all passes have."""
        case = self.job.case
        return case.B * case.N * case.D * case.K * row.passes

    def engine(self, row: JudgedRow) -> str:
        """Return our strategy, the products that it computed, its rate, and its time by phase."""
        strategy = row.engine["strategy"] or row.backend
        share = row.engine["products"]
        computed = f"{share:.0%} of the products"
        if "int8" in strategy:
            computed = f"{share * self.job.case.K:.3g} survivors per row"
        spent = row.engine["seconds"]
        total = sum(spent.values()) - spent["choice"]  # which is part of the others
        phases = ", ".join(
            f"{name} {value / total:.0%}" for name, value in spent.items() if value and total
        )
        rate = ""
        if row.rate and self.peaks:
            shares = ", ".join(
                f"{name} peak {f'{row.rate / peak:.0%}' if peak else '-'}"
                for name, peak in self.peaks.items()
            )
            rate = f"; {row.rate / 1e9:.3g} G multiply-adds/s ({shares})"
        return f"{strategy}: {computed}{rate}; time in {phases}"

    def figures(self) -> dict[str, Any]:
        names = ("queries", "B", "N", "D", "K", "iters", "metric", "dtype")
        memory = {"bytes": self.memory, "bound": self.bound}
        return {
            "case": self.job.case.name,
            "kind": self.job.kind,
            **{name: getattr(self.job.case, name) for name in names},
            "memory": None if self.memory is None else memory,
            "peaks": self.peaks,
            "labels_judged": self.rows_judged,
        }

    def as_json(self) -> dict[str, Any]:
        data = super().as_json()
        for row, row_data in zip(self.rows, data["rows"], strict=True):
            row_data["inertia_ratio"] = self.inertia_ratio(row)
            row_data["time_over_ours"] = self.ratio(row)
        return data


def _span(times: list[float]) -> str:
    low, low_unit = seconds(quantile(times, 0.2)).split()
    high, high_unit = seconds(quantile(times, 0.8)).split()
    return f"{low}{'' if low_unit == high_unit else ' ' + low_unit}-{high} {high_unit}"
