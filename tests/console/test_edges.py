"""Edges on the console: one is let in, its token is shown once, it shows how far it is, and it is let in no more."""

from __future__ import annotations

import httpx
import msgpack

from tests.console.conftest import Browser, Tulou


def test_an_edge_comes_and_goes(page: Browser, house: Tulou) -> None:
    page.open("/edges")
    page.sees("还没有边缘节点")
    page.press("新建边缘节点")
    page.fill("#name", "闽江泵站")
    page.pick("#org", "fuzhou")
    page.press("新建", ".ant-modal")
    token = page.find("[data-testid=secret]").text
    assert token.startswith("tulou_edge_")
    page.shot("edge-once")
    with httpx.Client(base_url=house.url + "/api/v1/edge", headers={"authorization": f"Bearer {token}"}, trust_env=False) as edge:
        assert edge.get("/position", params={"era": "x"}).json()["last"] == 0
        body = msgpack.packb({"v": 1, "era": "x", "after": 0, "messages": [], "lag": 1234, "lag_s": 56.7, "missed": 0})
        assert edge.post("/readings", content=body).status_code == 200
    page.open("/edges")
    page.sees("已连接")
    page.sees("1,234 条，57 秒")
    page.shot("edges")
    page.switch("en", "dark", 1440)
    page.sees("Connected")
    page.shot("edges-en-dark")
    page.switch("zh", "light", 390)
    page.sees("闽江泵站")
    page.shot("edges-narrow")
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert page.nameless() == []
    page.size(1440, 900)
    page.press("吊销", "[data-testid=edges]")
    page.press("吊销", ".ant-modal")
    page.sees("已吊销")
    assert page.foreign() == []
