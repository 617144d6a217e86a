"""What the report says: blocks of a document, in one language, made from figures.

Law: pure and deterministic. The same figures give the same blocks, whose digest is printed in the report; the date of making is no part
of them. Every figure says where it comes from: measured, reported (approved by a second person), or no data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from tulou.kernel.ledger import FUJIAN
from tulou.plan.evaluation.formula import CRITERIA
from tulou.plan.projects.funds import LABELS
from tulou.plan.queries import digest
from tulou.plan.scores import achievement

Language = Literal["zh", "en"]


class Heading(NamedTuple):
    text: str


class Text(NamedTuple):
    text: str


class Table(NamedTuple):
    """`widths` are shares; columns of `right` are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    widths: Sequence[int]
    right: Sequence[int]


class Bars(NamedTuple):
    """Horizontal bars: (label, value between 0 and `most`, value in words)."""

    title: str
    rows: Sequence[tuple[str, float, str]]
    most: float


class Columns(NamedTuple):
    """Clustered columns: by category a value of every series."""

    title: str
    categories: Sequence[str]
    series: Sequence[tuple[str, Sequence[float]]]
    unit: str


Block = Heading | Text | Table | Bars | Columns


class Document(NamedTuple):
    """A report without its date of making."""

    language: Language
    title: str
    subtitle: str
    blocks: Sequence[Block]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the whole content."""
        return digest([self.language, self.title, self.subtitle, [[type(one).__name__, *one] for one in self.blocks]])


WORDS: dict[str, tuple[str, str]] = {
    "as_of": ("数据截至 {}（北京时间）", "As of {} (Beijing time)"), "summary": ("一、总体情况", "1. Summary"),
    "targets": ("二、目标", "2. Targets"), "tasks": ("三、任务", "3. Tasks"), "projects": ("四、项目与资金", "4. Projects and funds"),
    "evaluation": ("五、年度考评", "5. Annual evaluation"), "basis": ("六、数据依据", "6. Basis"), "item": ("事项", "Item"),
    "value": ("数值", "Value"), "plan_score": ("目标得分", "Score of the targets"),
    "targets_met": ("目标：已达成 / 全部", "Targets: met / all"),
    "provenance": ("目标数据：实测 / 上报 / 无数据", "Targets: measured / reported / no data"),
    "systems": ("系统：可用 / 部分可用 / 未建", "Systems: work / partly / not yet"),
    "project_counts": ("项目：全部 / 已完工 / 有逾期里程碑数", "Projects: all / finished; late milestones"),
    "funds": ("资金（万元）：计划 / 落实 / 到位 / 支出", "Funds (CNY million): planned / committed / received / spent"),
    "evaluated": ("年度考评", "Annual evaluation"), "target": ("目标", "Target"), "lead": ("牵头单位", "Lead agency"),
    "state": ("数据来源", "Provenance"), "goal": ("目标值", "Goal"), "now": ("现值", "Value"), "reach": ("达成度", "Achieved"),
    "measured": ("实测", "measured"), "reported": ("上报", "reported"), "no_data": ("无数据", "no data"),
    "task": ("任务", "Task"), "agencies": ("牵头单位", "Lead agencies"), "score": ("得分", "Score"),
    "count": ("项目数", "Projects"), "late": ("逾期里程碑", "Late milestones"), "planned": ("计划", "Planned"),
    "committed": ("落实", "Committed"), "received": ("到位", "Received"), "spent": ("支出", "Spent"),
    "total": ("合计", "Total"), "source": ("资金来源", "Source"), "money": ("万元", "CNY million"), "quota": ("要素指标", "Quota"),
    "granted": ("获批", "Granted"), "used": ("已用", "Used"), "land": ("用地（公顷）", "Land (hectares)"),
    "energy": ("用能（吨标准煤）", "Energy (tonnes of coal equivalent)"), "milestone": ("里程碑", "Milestone"),
    "due": ("期限", "Due"), "project": ("项目", "Project"), "targets_short": ("目标", "Targets"),
    "funds_short": ("资金", "Funds"), "org": ("单位", "Agency"), "milestones": ("里程碑", "Milestones"),
    "items": ("督办", "Supervision"), "grade": ("等次", "Grade"),
    "reached_chart": ("各目标达成度（%）", "Achievement of the targets (%)"), "task_chart": ("各任务目标得分", "Scores of the tasks"),
    "money_chart": ("资金来源与使用", "Sources of funds"), "org_chart": ("各单位考评得分", "Scores of the agencies"),
    "no_projects": ("没有登记项目，或您无权查看。", "No project is registered, or none that you may see."),
    "no_evaluation": ("截至此时没有公布的年度考评。", "No evaluation was published by then."),
    "evaluation_is": ("{} 年考评第 {} 版（{}），办法 {}。", "Evaluation of {}, version {} ({}), formula {}."),
    "published": ("已公布，可申诉", "published, open to appeal"), "final": ("终审", "final"),
    "superseded": ("已被新版取代", "superseded"), "adjusted": ("经申诉更正 {} 处。", "{} inputs were corrected on appeal."),
    "basis_text": (
        "实测值由本系统接入的非合成设备在规定期限内报送，按各目标的口径计算；上报值由牵头单位附证据提交，经第二人复核。合成数据和合成项目不计入。资金来自复式账簿，逐笔经第二人复核。",
        "Measured values were sent in time by real devices connected to the house, by each target's definition; "
        "reported values were submitted with evidence by the lead agency and approved by a second person. "
        "Synthetic data and projects never count. Funds are those of the double-entry ledger, each movement "
        "approved by a second person.",
    ),
    "digests": ("目标计分摘要（SHA-256）：{}。", "Digest of the score (SHA-256): {}."),
    "evaluation_digest": ("考评摘要（SHA-256）：{}。", "Digest of the evaluation (SHA-256): {}."),
    "synthetic": ("另有 {} 个合成项目，不计入。", "{} synthetic projects are not counted."),
    "lates": ("逾期里程碑（最早的 {} 个）", "Late milestones (the {} oldest)"),
}
"""What the report says, Chinese and English."""


class Figures(NamedTuple):
    """What the report is made from: answers of the plan's services as of `at`. `projects` and `lates` are None for who may see none."""

    plan: Mapping[str, str]
    at: dt.datetime
    score: Mapping[str, Any]
    tasks: Sequence[Mapping[str, Any]]
    targets: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, Mapping[str, str]]
    systems: Mapping[str, int]
    projects: Mapping[str, Any] | None
    lates: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None


def build(language: Language, of: Figures) -> Document:
    """The report in a language."""
    say = Say(language)
    scored = {row["id"]: row for task in of.score["tasks"] for row in task["targets"]}
    blocks: list[Block] = [
        Heading(say("summary")), _summary(say, of), Heading(say("targets")), *_targets(say, of, scored),
        Heading(say("tasks")), *_tasks(say, of), Heading(say("projects")), *_projects(say, of),
        Heading(say("evaluation")), *_evaluation(say, of), Heading(say("basis")), Text(say("basis_text")),
        Text(say("digests", of.score["digest"])),
    ]
    if of.evaluation is not None:
        blocks.append(Text(say("evaluation_digest", of.evaluation["digest"])))
    moment = of.at.astimezone(FUJIAN).strftime("%Y-%m-%d %H:%M")
    return Document(language, of.plan[f"title_{language}"], say("as_of", moment), blocks)


class Say:
    """Words in a language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.zh = language == "zh"

    def __call__(self, key: str, *values: object) -> str:
        return WORDS[key][not self.zh].format(*values)

    def label(self, item: Mapping[str, Any], stem: str) -> str:
        """The text of something that has one in each language."""
        return str(item[f"{stem}_{self.language}"])

    def of(self, words: tuple[str, str]) -> str:
        """The one of two words."""
        return words[not self.zh]


def _summary(say: Say, of: Figures) -> Table:
    counts = of.score["counts"]
    met = sum(row["met"] for task in of.score["tasks"] for row in task["targets"])
    rows = [
        [say("plan_score"), _plain(of.score["score"])],
        [say("targets_met"), f"{met} / {sum(counts.values())}"],
        [say("provenance"), f"{counts['measured']} / {counts['reported']} / {counts['no_data']}"],
        [say("systems"), f"{of.systems['works']} / {of.systems['partial']} / {of.systems['none']}"],
    ]
    if of.projects is not None:
        total = of.projects["funds"]["total"]
        rows += [
            [say("project_counts"), f"{of.projects['projects']} / {of.projects['finished']} / {of.projects['late']}"],
            [say("funds"), " / ".join(money(total[stage], say) for stage in ("planned", "committed", "received", "spent"))],
        ]
    if of.evaluation is not None:
        rows.append([say("evaluated"), f"{of.evaluation['year']}：{_plain(of.evaluation['document']['score'])}"])
    return Table([say("item"), say("value")], rows, [6, 4], [1])


def _targets(say: Say, of: Figures, scored: Mapping[str, Any]) -> list[Block]:
    rows, bars = [], []
    for key, target in of.targets.items():
        row = scored[key]
        share = achievement(None if row["value"] is None else Decimal(str(row["value"])), Decimal(str(row["goal"])))
        percent = f"{share * 100:.1f} %"
        rows.append([
            say.label(target, "title"), say.label(target["lead"], "name"), f"{target['compare']} {_number(row['goal'])} {say.label(target, 'unit')}",
            _number(row["value"]), percent, say(row["state"]),
        ])
        bars.append((say.label(target, "title"), float(share * 100), percent if row["value"] is not None else say("no_data")))
    head = [say(name) for name in ("target", "lead", "goal", "now", "reach", "state")]
    return [Table(head, rows, [26, 22, 18, 12, 10, 12], [3, 4]), Bars(say("reached_chart"), bars, 100)]


def _tasks(say: Say, of: Figures) -> list[Block]:
    scores = {task["id"]: task["score"] for task in of.score["tasks"]}
    by_task = (of.projects or {}).get("tasks", {})
    rows, bars = [], []
    for task in of.tasks:
        own = by_task.get(task["id"], {})
        rows.append([
            task["id"], say.label(task, "title"), say.of(("、", ", ")).join(say.label(one, "name") for one in task["agencies"]),
            _plain(scores[task["id"]]), *("—" if of.projects is None else str(own.get(name, 0)) for name in ("projects", "late")),
        ])
        if scores[task["id"]] is not None:
            bars.append((f"{task['id']} {say.label(task, 'title')}", float(scores[task["id"]]), _plain(scores[task["id"]])))
    head = ["", *(say(name) for name in ("task", "agencies", "score", "count", "late"))]
    return [Table(head, rows, [6, 32, 36, 9, 8, 9], [3, 4, 5]), Bars(say("task_chart"), bars, 100)]


def _projects(say: Say, of: Figures) -> list[Block]:
    if of.projects is None or not of.projects["projects"]:
        return [Text(say("no_projects"))]
    found, stages = of.projects["funds"], ("planned", "committed", "received", "spent")
    titles = {task["id"]: say.label(task, "title") for task in of.tasks}
    rows = [
        [f"{key} {titles[key]}", str(one["projects"]), *(money(one["funds"]["total"][stage], say) for stage in stages)]
        for key, one in of.projects["tasks"].items()
    ]
    rows.append([say("total"), str(of.projects["projects"]), *(money(found["total"][stage], say) for stage in stages)])
    unit = say("money")
    head = [say("task"), say("count"), *(f"{say(stage)}{say.of(('（', ' ('))}{unit}{say.of(('）', ')'))}" for stage in stages)]
    blocks: list[Block] = [Table(head, rows, [34, 10, 14, 14, 14, 14], [1, 2, 3, 4, 5])]
    if found["sources"]:
        blocks.append(Columns(
            say("money_chart"), [say.of(LABELS[row["source"]]) for row in found["sources"]],
            [(say(stage), [float(_money(row[stage], say)) for row in found["sources"]]) for stage in stages], unit,
        ))
    if found["quotas"]:
        factor = {"m2": Decimal(1_000_000), "tce": Decimal(1000)}
        blocks.append(Table([say("quota"), say("granted"), say("used")], [
            [say(row["resource"]), *(f"{Decimal(row[name]) / factor[row['unit']]:,.2f}" for name in ("granted", "used"))] for row in found["quotas"]
        ], [5, 3, 3], [1, 2]))
    if of.lates:
        blocks += [Text(say("lates", len(of.lates))), Table([say("project"), say("milestone"), say("due"), say("org")], [
            [one["project_title"], one["title"], str(one["due"]), _org(say, of, one["org"])] for one in of.lates
        ], [34, 30, 14, 22], [])]
    if of.projects["synthetic"]:
        blocks.append(Text(say("synthetic", of.projects["synthetic"])))
    return blocks


def _evaluation(say: Say, of: Figures) -> list[Block]:
    if of.evaluation is None:
        return [Text(say("no_evaluation"))]
    document = of.evaluation["document"]
    rows, bars = [], []
    for row in sorted(document["agencies"], key=lambda one: (one["score"] is None, -(one["score"] or 0), one["id"])):
        name, values = _org(say, of, row["id"]), [row["criteria"][part] for part in CRITERIA]
        shares = [_plain(None if value is None else round(value * 100, 1)) for value in values]
        rows.append([name, *shares, _plain(row["score"]), row["grade"][say.language] if row["grade"] else "—"])
        if row["score"] is not None:
            bars.append((name, float(row["score"]), _plain(row["score"])))
    head = [say(name) for name in ("org", "targets_short", "milestones", "funds_short", "items", "score", "grade")]
    state = say(of.evaluation["state"])
    said = say("evaluation_is", of.evaluation["year"], of.evaluation["version"], state, document["method"])
    if document["adjustments"]:
        said += say.of(("", " ")) + say("adjusted", len(document["adjustments"]))
    return [Text(said), Table(head, rows, [34, 11, 11, 11, 11, 11, 11], [1, 2, 3, 4, 5]), Bars(say("org_chart"), bars, 100)]


def _org(say: Say, of: Figures, org: str) -> str:
    return of.names.get(org, {}).get(f"name_{say.language}", org)


def _money(fen: int, say: Say) -> Decimal:
    return Decimal(fen) / (1_000_000 if say.zh else 100_000_000)


def money(fen: int, say: Say) -> str:
    """Fen in units of ten thousand yuan in Chinese, of a million in English."""
    return f"{_money(fen, say):,.2f}"


def _plain(value: float | None) -> str:
    return "—" if value is None else f"{Decimal(str(value)):,.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    text = f"{Decimal(str(value)):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
