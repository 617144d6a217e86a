"""What a workflow is: states, transitions between them, who may make them, and how long they may take.

Law: a definition is data, checked when it is read: every state can be reached, none but a final one is without a way on, and what a
deadline does is a transition of its state. The terms are those of state machines (UML 2.5.1, clause 14).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from tulou.kernel.packs import Property, Strict, Text, broken
from tulou.kernel.policy import ROLES


def _role(name: str) -> str:
    if name not in ROLES:
        raise broken("role", f"应为 {'、'.join(ROLES)} 之一", f"must be one of {', '.join(ROLES)}")
    return name


Role = Annotated[str, AfterValidator(_role)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Deadline(Strict):
    """What the house does when an item is still in its state after `after_s` seconds: the transition `then`, or, without one, the item
    is late and its level of escalation is one higher. `every_s` repeats an escalation."""

    after_s: float = Field(gt=0, le=366 * 86400)
    then: Name | None = None
    every_s: float | None = Field(default=None, gt=0, le=366 * 86400)

    @model_validator(mode="after")
    def _one_end(self) -> Deadline:
        if self.then and self.every_s:
            raise broken("every_s", "every_s 重复的是升级，不是步骤", "every_s repeats an escalation, and not a transition")
        return self


class State(Strict):
    """A state. A final one ends the item: nothing leads out of it."""

    label: Text
    final: bool = False
    deadlines: list[Deadline] = Field(default_factory=list, max_length=8)


class Transition(Strict):
    """A step from any of the states `source` to `target` by someone who has one of `roles` in the item's organisation.

    `asks` are fields that may be given with it, `needs` those that must be. `not_by` names transitions whose last maker may not make
    this one: a second person. `label` is what people press. A transition without roles is the house's own, by a deadline.
    """

    label: Text
    source: list[Name] = Field(min_length=1)
    target: Name
    roles: list[Role] = Field(default_factory=list)
    asks: list[Name] = Field(default_factory=list)
    needs: list[Name] = Field(default_factory=list)
    not_by: list[Name] = Field(default_factory=list)
    comment: bool = False


class Workflow(Strict):
    """A workflow: its items begin in `initial`, made by someone with one of the roles `create`, who may give the fields `asks` and must
    give the fields `needs`."""

    label: Text
    create: list[Role] = Field(min_length=1)
    initial: Name
    fields: dict[Name, Property] = Field(default_factory=dict)
    asks: list[Name] = Field(default_factory=list)
    needs: list[Name] = Field(default_factory=list)
    states: dict[Name, State]
    transitions: dict[Name, Transition]

    @model_validator(mode="after")
    def _sound(self) -> Workflow:
        def known(names: list[str], of: Collection[str], *at: str) -> None:
            for name in names:
                if name not in of:
                    raise broken("known", f"没有 {name}", f"there is no {name}", at)

        known([self.initial], self.states, "initial")
        known(self.asks, self.fields, "asks")
        known(self.needs, self.fields, "needs")
        for name, step in self.transitions.items():
            at = ("transitions", name)
            known(step.source, self.states, *at, "source")
            known([step.target], self.states, *at, "target")
            known(step.asks, self.fields, *at, "asks")
            known(step.needs, self.fields, *at, "needs")
            known(step.not_by, self.transitions, *at, "not_by")
            for source in step.source:
                if self.states[source].final:
                    raise broken("final", f"{source} 是终态", f"{source} is final", (*at, "source"))
        for name, state in self.states.items():
            at = ("states", name)
            for deadline in state.deadlines:
                if state.final:
                    raise broken("final", "终态没有期限", "a final state has no deadline", (*at, "deadlines"))
                if deadline.then is not None:
                    known([deadline.then], self.transitions, *at, "deadlines")
                    step = self.transitions[deadline.then]
                    if name not in step.source or step.needs or step.comment:
                        raise broken(
                            "deadline", f"{deadline.then} 不从这里开始，或需要人给出的内容",
                            f"{deadline.then} does not begin here, or needs what only people give", (*at, "deadlines"),
                        )
            if not state.final and not any(name in step.source for step in self.transitions.values()):
                raise broken("left", "没有离开它的步骤，它又不是终态", "nothing leads out of it, and it is not final", at)
        reached, ahead = {self.initial}, [self.initial]
        while ahead:
            here = ahead.pop()
            for step in self.transitions.values():
                if here in step.source and step.target not in reached:
                    reached.add(step.target)
                    ahead.append(step.target)
        if missing := sorted(set(self.states) - reached):
            raise broken("reached", "没有到达它的步骤", "nothing leads to it", ("states", missing[0]))
        return self
