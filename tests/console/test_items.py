"""Items of workflows on the console: one is made, taken up, reported, and closed by another person than the one who reported."""

from __future__ import annotations

from typing import Any

from tests.console.conftest import Browser, Tulou


def step(page: Browser, transition: str, text: str) -> None:
    """Open the dialog of a step and press its button; a click on what still moves is lost."""
    def asked() -> Any:
        return [one for one in page.all(".ant-modal button") if one.is_displayed() and one.text.strip() == text]

    page.until(lambda: asked() or page.find(f"[data-testid=item] [data-transition={transition}]").click(), f"{transition} asks nothing")
    page.press(text, ".ant-modal")


def test_a_supervision_item_from_demand_to_close(page: Browser, house: Tulou) -> None:
    page.open("/items")
    page.sees("没有待您办理的事项")
    page.shot("items-none")
    page.press("新建事项")
    page.pick("#workflow", "督办")
    page.pick("#org", "fuzhou")
    page.fill("#title", "闽江口水质自动站数据中断")
    page.fill("#fields_demand", "三日内查明原因并恢复数据上报")
    page.fill("#fields_task", "F7")
    page.shot("item-new")
    page.press("新建", ".ant-modal")
    page.sees("闽江口水质自动站数据中断")
    page.sees("待签收")
    page.find("[data-testid=items] td a").click()
    step(page, "accept", "签收")
    step(page, "report", "上报办理情况")
    page.sees("办理情况")  # needed, and said beside the field
    page.find("#fields_progress").send_keys("光缆中断，已抢通")
    page.press("上报办理情况", ".ant-modal")
    page.find("[data-testid=item] [data-step='2']")
    page.sees("待审核")
    assert [one.get_attribute("data-transition") for one in page.all("[data-transition]")] == ["back"], "who reported does not close"
    page.shot("item")
    number = page.driver.current_url.rsplit("item=", 1)[1]
    with house.sign_in() as client:
        token = client.cookies["tulou_session"]
        assert token
        item = client.get(f"/api/v1/items/{number}").json()
        assert (item["state"], item["step"], [one["transition"] for one in item["steps"]]) == ("reported", 2, ["", "accept", "report"])
        refused = client.post(f"/api/v1/items/{number}/steps", json={"transition": "close", "step": 2})
        assert refused.status_code == 403
    page.switch("en", "dark", 1440)
    page.sees("Reported")
    page.shot("item-en-dark")
    page.open("/items?view=open")
    page.switch("zh", "light", 390)
    page.sees("闽江口水质自动站数据中断")
    page.shot("items-narrow")
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    page.size(1440, 900)
    page.open("/items?view=open")
    page.shot("items")
    assert page.nameless() == []
    assert page.foreign() == []
