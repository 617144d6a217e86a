"""The beginning of a pack: what `tulou pack new` writes."""

from __future__ import annotations

import re
from pathlib import Path

from tulou.kernel.errors import Conflict, Invalid

PACK = '''\
name: {name}
version: "0.1"
label: {{zh: {name}, en: {title}}}
models:
  {kind}:
    label: {{zh: 设备, en: Device}}
    icon: device
    retention_days: 365
    offline_after_s: 3600
    properties:
      temperature:
        label: {{zh: 温度, en: Temperature}}
        unit: CEL
        symbol: °C
        min: -90
        max: 200
        iri: https://smartdatamodels.org/dataModel.Environment/temperature
        alarm: {{above: 60, clear: 55, severity: major}}
examples:
  - label: {{zh: 过热又恢复, en: Too hot and back}}
    type: {kind}
    readings:
      - {{after_s: 0, values: {{temperature: 20}}}}
      - {{after_s: 60, values: {{temperature: 61}}}}
      - {{after_s: 120, values: {{temperature: 54}}}}
    raises: [temperature.above]
    clears: [temperature.above]
'''

TEST = '''\
"""What the pack promises, beside its examples; `tulou pack test` runs it."""

from tulou.kernel.packs import Pack


def test_every_number_has_a_range(pack: Pack) -> None:
    for kind, model in pack.models.items():
        for name, prop in model.properties.items():
            assert prop.kind != "number" or None not in (prop.min, prop.max), f"{{kind}}.{{name}}"
'''

README = '''\
# {title}

`{kind}`: what it is, what it measures, and what its alarms mean.
'''

README_ZH = '''\
# {name}

`{kind}`：是什么，测什么，告警意味着什么。
'''


def write(name: str, within: Path) -> Path:
    """Write a small good pack to the new folder `within/name`. Raises `Invalid`, and `Conflict` where there is something."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 63:
        raise Invalid(
            f"包名 {name} 应由小写字母、数字与连字符组成，以字母开头", f"the name {name} must be of lower-case letters, digits and -, a letter first",
            field="name", value=name, rule="[a-z][a-z0-9-]*",
        )
    folder = within / name
    if folder.exists():
        raise Conflict(f"{folder} 已存在", f"{folder} exists", field="name", value=name, rule="new folder")
    title = " ".join(part.capitalize() for part in name.split("-"))
    words = {"name": name, "title": title, "kind": title.replace(" ", "") + "Device"}
    files = {
        "pack.yaml": PACK, f"tests/test_{name.replace('-', '_')}.py": TEST, "README.md": README, "README.zh-CN.md": README_ZH,
    }
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text.format(**words), "utf-8")
    return folder
