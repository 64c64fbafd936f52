"""A report on one function: text for a terminal, JSON for programs, HTML for people."""

from __future__ import annotations

import datetime
import html
import json
import platform
from dataclasses import asdict, dataclass, field

from .reference import Verdict

VERDICTS = ("pass", "fail", "refused", "not shown")


@dataclass
class Finding:
    """What one property showed."""

    id: str
    name: str
    says: str
    cases: int = 0
    """Cases that could show the property."""
    failures: int = 0
    """Cases in which it did not hold."""
    refusals: int = 0
    """Cases in which the function raised instead of answering."""
    worst: float = 0.0
    """Largest error / bound."""
    smallest_failure: str = ""
    """The smallest case that failed."""
    failure: str = ""
    """What went wrong there."""
    repro: str = ""
    """A command that shows it."""
    smallest_refusal: str = ""
    refusal: str = ""

    @property
    def verdict(self) -> str:
        """ "pass", "fail", "refused" (it raised in every case) or "not shown" (no case fits)."""
        if self.failures:
            return "fail"
        if self.refusals == self.cases:
            return "refused" if self.cases else "not shown"
        return "pass"

    @property
    def share(self) -> str:
        """In how many of the answered cases it held."""
        answered = self.cases - self.refusals
        return f"{answered - self.failures}/{answered}"

    def add(self, case: str, verdict: Verdict, repro: str) -> None:
        self.cases += 1
        if not verdict.ratio <= self.worst:
            self.worst = verdict.ratio
        if verdict.ok:
            return
        self.failures += 1
        if self.failures == 1:
            self.smallest_failure, self.failure, self.repro = case, str(verdict), repro

    def refuse(self, case: str, why: str) -> None:
        self.cases += 1
        self.refusals += 1
        if self.refusals == 1:
            self.smallest_refusal, self.refusal = case, why


@dataclass
class Report:
    """Property by property, whether a function is attention. `print` it, or write it to a file."""

    function: str
    arrays: str
    dtype: str
    device: str
    weight_error: float
    findings: list[Finding] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = field(default_factory=platform.machine)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    stopped_at: str = ""
    """The property in which the function broke the GPU for this process: those after it, and its own
    larger cases, were not examined. `judge(properties=...)` in a new process examines them."""

    @property
    def ok(self) -> bool:
        """No property failed. (A refusal is an honest answer.)"""
        return all(f.verdict != "fail" for f in self.findings)

    def finding(self, name: str) -> Finding:
        return next(f for f in self.findings if f.name == name)

    def summary(self) -> str:
        verdicts = [f.verdict for f in self.findings]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts)
        stopped = f"; stopped at {self.stopped_at}" if self.stopped_at else ""
        return f"{self.function}, {self.dtype} on {self.device}: {counts}{stopped}"

    def __str__(self) -> str:
        width = max((len(f.name) for f in self.findings), default=0)
        lines = [self.summary(), ""]
        for f in self.findings:
            refused = f"  refuses {f.refusals}" if f.refusals else ""
            lines.append(
                f"{f.verdict:<9} {f.id:<8} {f.name:<{width}} {f.share:>7}  "
                f"{_number(f.worst)}{refused}".rstrip()
            )
            if f.failures:
                lines += [
                    f"{'':10}{f.says}",
                    f"{'':10}{f.smallest_failure}: {f.failure}",
                    f"{'':10}{f.repro}",
                ]
        reasons = {f.refusal: f.smallest_refusal for f in reversed(self.findings) if f.refusals}
        lines += [f"refuses   {case}: {reason}" for reason, case in reasons.items()]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Stable keys; infinity is written as null."""
        data = asdict(self)
        for row, finding in zip(data["findings"], self.findings):
            row["verdict"] = finding.verdict
            row["worst"] = None if finding.worst == float("inf") else finding.worst
        return json.dumps(data, indent=1, allow_nan=False)

    def to_html(self) -> str:
        """One page that needs nothing else; light or dark as the reader's system is."""
        rows = "\n".join(_row(f) for f in self.findings)
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return _PAGE.format(
            title=html.escape(self.function),
            summary=html.escape(self.summary()),
            rows=rows,
            about=html.escape(f"{versions}; {self.machine}; {self.date}"),
        )


def _number(worst: float) -> str:
    return "not finite" if worst == float("inf") else f"{worst:.2f} of the bound" if worst else ""


def _row(f: Finding) -> str:
    more = ""
    if f.failures:
        more += (
            f"<p>{html.escape(f.smallest_failure)}: {html.escape(f.failure)}</p>"
            f"<pre>{html.escape(f.repro)}</pre>"
        )
    if f.refusals:
        more += f"<p>refuses {html.escape(f.smallest_refusal)}: {html.escape(f.refusal)}</p>"
    return (
        f'<tr class="{f.verdict.split()[0]}"><td>{f.verdict}<td>{f.id}<td><code>{f.name}</code><br>'
        f"{html.escape(f.says)}{more}<td>{f.share}<td>{f.refusals or ''}<td>{_number(f.worst)}"
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}, judged</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #8886; padding: .4rem .6rem; text-align: left; vertical-align: top; }}
tr.pass td:first-child {{ color: light-dark(#0a7d32, #5bd68a); }}
tr.fail td:first-child {{ color: light-dark(#c0202f, #ff8a8a); font-weight: bold; }}
tr.refused td:first-child {{ color: light-dark(#8a5a00, #f0c060); }}
pre {{ white-space: pre-wrap; font-size: .85em; margin: .3rem 0; }} p {{ margin: .3rem 0; }}
</style>
<h1>{title}, judged</h1>
<p>{summary}</p>
<table><tr><th>Verdict<th>Id<th>Property; smallest case that broke it<th>Held<th>Refused<th>Worst error
{rows}
</table>
<p>{about}</p>
</html>
"""
