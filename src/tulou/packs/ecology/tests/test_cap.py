"""CAP 1.2: what is built, and what others built.

`alert.xml` was judged valid by xmlschema 4.3.2 against CAP-v1.2.xsd of OASIS, as were an Update, a Cancel and a Restricted alert of the same
codec; so these bytes are what the codec must go on to build.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from tulou.kernel.errors import Invalid
from tulou.packs.ecology.cap import Alert, Area, Info, Named, build, parse

ZONE = dt.timezone(dt.timedelta(hours=8))
SENT = dt.datetime(2026, 11, 28, 8, tzinfo=ZONE)
AMBER = b"""<?xml version = "1.0" encoding = "UTF-8"?>
<alert xmlns = "urn:oasis:names:tc:emergency:cap:1.2">
   <identifier>KAR0-0306112239-SW</identifier>
   <sender>KARO@CLETS.DOJ.CA.GOV</sender>
   <sent>2003-06-11T22:39:00-07:00</sent>
   <status>Actual</status>
   <msgType>Alert</msgType>
   <source>SW</source>
   <scope>Public</scope>
   <info>
     <language>en-US</language>
     <category>Rescue</category>
     <event>Child Abduction</event>
     <urgency>Immediate</urgency>
     <severity>Severe</severity>
     <certainty>Likely</certainty>
     <eventCode><valueName>SAME</valueName><value>CAE</value></eventCode>
     <headline>Amber Alert in Los Angeles County</headline>
     <area>
        <areaDesc>Los Angeles County</areaDesc>
        <geocode><valueName>SAME</valueName><value>006037</value></geocode>
     </area>
   </info>
</alert>"""


def info(language: str, **changes: Any) -> Info:
    area = Area(
        description="福州市鼓楼区", polygons=[[(26.05, 119.28), (26.1, 119.28), (26.1, 119.32), (26.05, 119.28)]], circles=[(26.07, 119.3, 5.5)],
        geocodes=[Named(name="GB/T 2260", value="350102")],
    )
    return Info(**{
        "language": language, "event": "重污染天气", "responses": ["Prepare", "Avoid"], "urgency": "Expected", "severity": "Moderate",
        "certainty": "Likely", "event_codes": [Named(name="AQI", value="201-300")], "effective": SENT, "onset": SENT + dt.timedelta(hours=4),
        "expires": SENT + dt.timedelta(days=1), "sender_name": "福州市生态环境局", "headline": "重污染天气黄色预警 <测试> & ]]>",
        "description": "预计 AQI 超过 200。", "instruction": "减少户外活动。", "contact": "12369",
        "parameters": [Named(name="AQI", value="215")], "areas": [area], **changes,
    })


ALERT = Alert(identifier="fuzhou.20261128.1", sender="fuzhou@tulou", sent=SENT, info=[info("zh-CN"), info("en-US")])


def test_an_alert_is_built_as_it_was_judged_valid_and_read_back() -> None:
    assert build(ALERT) == Path(__file__).with_name("alert.xml").read_bytes()
    assert parse(build(ALERT)) == ALERT


def test_an_update_names_the_earlier_ones() -> None:
    update = Alert(identifier="2", sender="a@b", sent=SENT.astimezone(dt.UTC), kind="Update", references=[("a@b", "1", SENT)])
    text = build(update)
    assert b"<references>a@b,1,2026-11-28T08:00:00+08:00</references>" in text
    assert b"<sent>2026-11-28T00:00:00-00:00</sent>" in text
    assert parse(text) == update
    with pytest.raises(ValueError, match="references"):
        Alert(identifier="2", sender="a@b", sent=SENT, kind="Cancel")


@pytest.mark.outside(source="OASIS CAP 1.2, appendix A.4, AMBER Alert (in English, shortened)")
def test_an_alert_of_the_standard_is_read() -> None:
    found = parse(AMBER)
    assert (found.identifier, found.sent.utcoffset(), found.info[0].severity) == ("KAR0-0306112239-SW", dt.timedelta(hours=-7), "Severe")
    assert found.info[0].areas[0].geocodes == [Named(name="SAME", value="006037")]
    assert parse(build(found)) == found


@pytest.mark.parametrize(("old", "new", "field"), [
    (b"<status>Actual</status>", b"<status>Real</status>", "status"), (b"<sender>KARO@CLETS.DOJ.CA.GOV</sender>", b"<sender>a b</sender>", "sender"),
    (b"2003-06-11T22:39:00-07:00", b"2003-06-11T22:39:00", "sent"), (b"<event>Child Abduction</event>", b"", "info.0.event"),
    (b"cap:1.2", b"cap:1.1", "alert"), (b"</alert>", b"", "alert"), (b"<alert ", b"<!DOCTYPE alert []><alert ", "alert"),
    (b"<geocode>", b"<polygon>1,2 x</polygon><geocode>", "area"), (b"<geocode>", b"<polygon>1,2 3,4 5,6 7,8</polygon><geocode>", "info.0.areas.0"),
    (b"<geocode>", b"<circle>99,2 1</circle><geocode>", "info.0.areas.0"),
])
def test_what_breaks_a_rule_is_named(old: bytes, new: bytes, field: str) -> None:
    assert old in AMBER
    with pytest.raises(Invalid) as raised:
        parse(AMBER.replace(old, new))
    assert raised.value.field == field
