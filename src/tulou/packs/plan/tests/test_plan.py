"""What the plan's pack promises: organisations that form one province, and supervision that ends."""

from tulou.kernel.packs import Pack


def test_the_organisations_are_one_province(pack: Pack) -> None:
    roots = [one.id for one in pack.organisations if one.parent is None]
    assert roots == ["fujian"]
    assert len({one.code for one in pack.organisations if one.kind == "city"}) == 10


def test_every_workflow_can_end(pack: Pack) -> None:
    workflows = pack.section("workflows")
    assert workflows
    for name, workflow in workflows.items():
        assert any(state.final for state in workflow.states.values()), name
