"""Funds and quotas of projects in the ledger: which accounts a movement posts to, and what their balances say.

Law: what was planned and committed is kept in memorandum accounts; received money is the project's cash by source, which is never
overdrawn, against its funding; spent money goes from that cash to its use. So for every source received = spent + what is left, and what
was spent by source is what was spent by use. A quota is granted, and used out of what is left; an overrun shows and is not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from tulou.kernel.ledger import Balance
from tulou.plan.projects.models import RESOURCES, SOURCES, STAGES, USES

ENGINE = "plan"
LABELS = {
    "planned": ("计划（备查）", "Planned (memorandum)"), "plan": ("计划对方（备查）", "Plan, contra (memorandum)"),
    "committed": ("落实（备查）", "Committed (memorandum)"), "commitments": ("落实对方（备查）", "Commitments, contra (memorandum)"),
    "cash": ("项目资金", "Project cash"), "funding": ("到位资金", "Funding received"), "use": ("支出", "Spent"),
    "left": ("剩余指标", "Quota left"), "granted": ("获批指标", "Quota granted"), "used": ("已用指标", "Quota used"),
    "budget": ("预算", "budget"), "special_bonds": ("专项债券", "special bonds"), "ppp": ("政府和社会资本合作", "PPP"), "reit": ("REITs", "REIT"),
    "own": ("自有资金", "own funds"), "loans": ("贷款", "loans"), "land": ("土地", "land"), "works": ("建设工程", "works"),
    "equipment": ("设备", "equipment"), "software": ("软件", "software"), "services": ("服务", "services"), "other": ("其他", "other"),
    "energy": ("能耗", "energy"),
}
"""What accounts, sources and uses are called, Chinese and English."""

Kind = Literal["asset", "liability", "equity", "income", "expense"]


class Account(NamedTuple):
    """An account of a project: its code below `project/<no>/`, kind, and whether it is never overdrawn."""

    code: str
    kind: Kind
    guarded: bool = False

    @property
    def label(self) -> dict[str, str]:
        words = [LABELS[part] for part in self.code.split("/")]
        return {"zh": "·".join(zh for zh, _ in words), "en": ", ".join(en for _, en in words)}


def subject(project: int) -> str:
    """What a project's accounts are about."""
    return f"project:{project}"


def sides(kind: str, source: str | None, use: str | None, resource: str | None) -> tuple[Account, Account]:
    """The accounts that a movement debits and credits."""
    funding: Kind = "liability" if source == "loans" else "equity"
    return {
        "planned": (Account(f"planned/{source}", "asset"), Account("plan", "equity")),
        "committed": (Account(f"committed/{source}", "asset"), Account("commitments", "equity")),
        "received": (Account(f"cash/{source}", "asset", True), Account(f"funding/{source}", funding)),
        "spent": (Account(f"use/{use}", "expense"), Account(f"cash/{source}", "asset", True)),
        "granted": (Account(f"left/{resource}", "asset"), Account(f"granted/{resource}", "equity")),
        "used": (Account(f"used/{resource}", "expense"), Account(f"left/{resource}", "asset")),
    }[kind]


def figures(found: Iterable[Balance]) -> dict[str, Any]:
    """What balances of projects' accounts say, of one project or of many together.

    `sources`: by source, fen planned, committed, received, spent; `uses`: fen spent by use; `total`: of all sources; `quotas`: by
    resource, granted and used in the smallest parts of its unit. Sources, uses and quotas without any movement are left out.
    """
    sums: dict[str, int] = {}
    for one in found:
        code = one.code.split("/", 2)[2]
        sums[code] = sums.get(code, 0) + one.balance
    return _figures(sums)


def _figures(sums: Mapping[str, int]) -> dict[str, Any]:
    sources = []
    for source in SOURCES:
        received = sums.get(f"funding/{source}", 0)
        row = {
            "planned": sums.get(f"planned/{source}", 0), "committed": sums.get(f"committed/{source}", 0), "received": received,
            "spent": received - sums.get(f"cash/{source}", 0),
        }
        if any(row.values()):
            sources.append({"source": source, **row})
    quotas = [
        {"resource": resource, "unit": unit, "granted": sums.get(f"granted/{resource}", 0), "used": sums.get(f"used/{resource}", 0)}
        for resource, unit in RESOURCES.items() if f"left/{resource}" in sums
    ]
    return {
        "sources": sources,
        "uses": [{"use": use, "spent": sums[f"use/{use}"]} for use in USES if sums.get(f"use/{use}")],
        "total": {stage: sum(row[stage] for row in sources) for stage in STAGES},
        "quotas": quotas,
    }


def by_month(turned: Mapping[str, Iterable[tuple[str, int, int]]]) -> list[dict[str, Any]]:
    """Of one project: fen received and spent in each month that had either, oldest first; reversals count against their month."""
    found: dict[str, dict[str, int]] = {}
    for full, rows in turned.items():
        name = full.split("/", 2)[2].split("/")[0]
        stage, sign = {"funding": ("received", -1), "use": ("spent", 1)}.get(name, ("", 0))
        for month, debit, credit in rows if stage else ():
            found.setdefault(month, {"received": 0, "spent": 0})[stage] += sign * (debit - credit)
    return [{"month": month, **found[month]} for month in sorted(found)]
