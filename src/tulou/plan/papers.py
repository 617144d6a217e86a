"""Papers: what one person submits with evidence and another decides; and the files that are evidence.

Law: both are people, and never the same one. The same person by another token is the same person; the machine's own key is nobody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.errors import Forbidden, Invalid, NotFound, TooLarge
from tulou.kernel.policy import Actor
from tulou.kernel.sql import metadata

MAX_EVIDENCE = 5 << 20
"""Bytes of an evidence file."""

plan_evidence = sa.Table(
    "plan_evidence", metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
"""Evidence files by digest: committed with the report that brings them, or not at all."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Paper(Body):
    """Evidence in words, and a file (`evidence_name`, `evidence_base64`) if there is one."""

    evidence_text: Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]
    evidence_name: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f]+$")] | None = None
    evidence_base64: str | None = None


def person_of(actor: Actor) -> str:
    """The person behind the actor, or the actor where there is none."""
    return actor.person or actor.id


def name_of(actor: Actor) -> str:
    """The person's name; a token has a name of its own."""
    return actor.name if actor.kind == "user" else actor.person.removeprefix("user:")


def a_person(actor: Actor) -> str:
    """The person behind the actor; the house itself and devices cannot vouch for a figure."""
    if not actor.person:
        raise Forbidden(
            "上报和复核须由具名的人办理", "papers are submitted and decided by named people", field="actor", value=actor.id, rule="a person",
        )
    return actor.person


def not_own(person: str, *authors: str | None) -> None:
    """Raises `Forbidden` where the person is one of the paper's authors."""
    if person in authors:
        raise Forbidden(
            "提交人不能复核自己的材料", "who submitted a paper does not decide on it", field="decided_by", value=person, rule="second person",
        )


def file_of(paper: Paper) -> bytes | None:
    """The evidence file. Raises `Invalid`, `TooLarge`."""
    if paper.evidence_base64 is None:
        return None
    if paper.evidence_name is None:
        raise Invalid("附件须有文件名", "a file needs a name", field="evidence_name", rule="with evidence_base64")
    try:
        content = base64.b64decode(paper.evidence_base64, validate=True)
    except binascii.Error:
        raise Invalid("附件不是有效的 Base64", "evidence_base64 is not Base64", field="evidence_base64", rule="RFC 4648") from None
    if len(content) > MAX_EVIDENCE:
        raise TooLarge(
            f"附件超过 {MAX_EVIDENCE} 字节", f"the file exceeds {MAX_EVIDENCE} bytes", field="evidence_base64", value=len(content),
            rule=f"<= {MAX_EVIDENCE}",
        )
    return content


def keep(connection: sa.Connection, content: bytes | None) -> str | None:
    """Store an evidence file, once: its SHA-256. None where there is none."""
    if content is None:
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    if connection.execute(sa.select(plan_evidence.c.sha256).where(plan_evidence.c.sha256 == sha256)).first() is None:
        connection.execute(plan_evidence.insert().values(sha256=sha256, size=len(content), content=content))
    return sha256


def file_kept(connection: sa.Connection, row: Any, name: str) -> tuple[str, bytes]:
    """The evidence file of a paper's row: its name, or `name`, and content. Raises `NotFound` if it has none."""
    found = connection.execute(sa.select(plan_evidence.c.content).where(plan_evidence.c.sha256 == row.evidence_sha256)).first()
    if found is None:
        raise NotFound("这份材料没有附件", "the paper has no file", field="evidence", value=name)
    return row.evidence_name or name, bytes(found.content)
