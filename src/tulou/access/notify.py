"""Telling people of alarms: a webhook, e-mail, a short message.

Law: what is to be told is queued in the transaction that raised, cleared or escalated the alarm (`Queue`), so a crash
neither loses it nor tells of what did not happen; it leaves the queue when the other side has taken it, so a crash in
between tells it again, with the same `Tulou-Delivery`. Each channel is served in order and by itself: one that does not
answer holds up no other, is tried again with growing pauses, and after `notification_hours` what waits is given up.

A webhook carries `Tulou-Timestamp` and `Tulou-Signature: v1=<hex of HMAC-SHA256(secret, timestamp + "." + body)>`. It goes
out through `house.outbound`, and so does the short message, whose request the settings `sms_*` describe.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import smtplib
import ssl
import time
from datetime import timedelta
from email.message import EmailMessage
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tulou.access.models import alarms
from tulou.access.rules.models import SEVERITIES, Severity
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound, TulouError, Unavailable
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata, utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.notify")

READ, MANAGE = "access.channel.read", "access.channel.manage"
EVERY = 0.5
AT_ONCE = 20
LEASE = timedelta(seconds=60)
"""For how long a process that took a notification has it to itself: longer than sending takes."""
TIMEOUT = 10.0
LONGEST_PAUSE = 600
CHANNELS = 100
"""Channels of an organisation."""

alarm_channels = sa.Table(
    "alarm_channels", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("address", Json, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("least", sa.String(16), nullable=False),
    sa.Column("types", Json),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("last_success", UtcDateTime),
    sa.Column("last_failure", UtcDateTime),
    sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_alarm_channels_org_id", "org", "id"),
    sqlite_autoincrement=True,
)
alarm_outbox = sa.Table(
    "alarm_outbox", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("channel_id", sa.BigInteger, nullable=False),
    sa.Column("alarm_id", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_alarm_outbox_due_at", "due_at"),
    sa.Index("ix_alarm_outbox_channel_id_id", "channel_id", "id"),
    sqlite_autoincrement=True,
)

Mail = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9.\-]{1,190}$")]
Phone = Annotated[str, StringConstraints(pattern=r"^\+?[0-9]{5,20}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Webhook(_Strict):
    """POST to an address."""

    kind: Literal["webhook"]
    url: str = Field(min_length=1, max_length=2000)


class Email(_Strict):
    """A letter to each address."""

    kind: Literal["email"]
    to: list[Mail] = Field(min_length=1, max_length=20)


class Sms(_Strict):
    """A short message to each number."""

    kind: Literal["sms"]
    to: list[Phone] = Field(min_length=1, max_length=20)


class NewChannel(_Strict):
    """Who of an organisation is told, of alarms from `least` on, of all entity types or some."""

    org: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=200)
    address: Webhook | Email | Sms = Field(discriminator="kind")
    least: Severity = "warning"
    types: list[Annotated[str, Field(min_length=1, max_length=128)]] | None = Field(
        default=None, min_length=1, max_length=100
    )
    enabled: bool = True


class Queue:
    """Inside one transaction that changes alarms: collects what is to be told of them, for the channels that want it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._channels: dict[str, list[Any]] = {}
        for row in connection.execute(sa.select(alarm_channels).where(alarm_channels.c.enabled.is_(True))):
            self._channels.setdefault(row.org, []).append(row)
        self._entries: list[dict[str, Any]] = []

    def add(self, alarm: Any, event: str, kind: str) -> None:
        """News of `alarm`, of an entity of type `kind`; none while it is silenced."""
        now = utcnow()
        if alarm.silenced_until is not None and alarm.silenced_until > now:
            return
        self._entries += [
            {"channel_id": row.id, "alarm_id": alarm.id, "event": event, "created_at": now, "due_at": now, "attempts": 0}
            for row in self._channels.get(alarm.org, ())
            if SEVERITIES.index(alarm.severity) >= SEVERITIES.index(row.least) and (row.types is None or kind in row.types)
        ]

    def put(self) -> None:
        """Write down what was collected."""
        if self._entries:
            self._connection.execute(alarm_outbox.insert(), self._entries)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What `Tulou-Signature` says of a body sent at `timestamp`."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Channels:
    """The operations on channels, and the task that delivers (role `worker`). `describe` is how alarms are shown."""

    def __init__(self, house: House, describe: Any) -> None:
        self.house = house
        self.policy = house.policy
        self.describe = describe
        self._busy: set[int] = set()

    # -- operations

    @operation(READ)
    async def find(self, actor: Actor, org: str | None = None) -> dict[str, Any]:
        """Channels, newest first."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(alarm_channels).order_by(alarm_channels.c.id.desc()).limit(1000)
        query = query.where(*within(alarm_channels.c.org, orgs))
        waiting = sa.select(alarm_outbox.c.channel_id, sa.func.count()).group_by(alarm_outbox.c.channel_id)
        rows, counts = await self.house.db.read(
            lambda c: (c.execute(query).all(), {row[0]: row[1] for row in c.execute(waiting)})
        )
        return {"items": [{**_document(row), "waiting": counts.get(row.id, 0)} for row in rows]}

    @operation(MANAGE)
    async def create(self, actor: Actor, new: NewChannel) -> dict[str, Any]:
        """Make a channel; the answer has the secret of a webhook, only now. Raises `Invalid`."""
        self.policy.require(actor, MANAGE, new.org)
        self._check(new)
        secret = secrets.token_urlsafe(32)

        def write(connection: sa.Connection) -> Any:
            mine = sa.select(sa.func.count()).select_from(alarm_channels).where(alarm_channels.c.org == new.org)
            if connection.execute(mine).scalar_one() >= CHANNELS:
                raise Invalid(
                    f"{new.org} 的通知渠道已达 {CHANNELS} 个", f"{new.org} has {CHANNELS} channels", field="org",
                    value=new.org, rule=f"<= {CHANNELS}",
                )
            row = connection.execute(alarm_channels.insert().values(
                **_values(new), org=new.org, secret=secret, created_at=utcnow(), created_by=actor.id
            ).returning(alarm_channels)).one()
            audit.record(connection, actor, MANAGE, new.org, f"channel:{row.id}", {"change": "created"})
            return row

        document = _document(await self.house.db.write(write))
        return {**document, "secret": secret} if new.address.kind == "webhook" else document

    @operation(MANAGE)
    async def change(self, actor: Actor, channel_id: int, new: NewChannel) -> dict[str, Any]:
        """Replace what a channel says; its organisation and secret stay. Raises `NotFound`, `Invalid`."""
        row = await self._row(actor, channel_id)
        if new.org != row.org:
            raise Invalid("机构不可更改", "the organisation cannot be changed", field="org", value=new.org, rule=row.org)
        self._check(new)

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                alarm_channels.update().where(alarm_channels.c.id == channel_id).values(**_values(new))
                .returning(alarm_channels)
            ).one()
            audit.record(connection, actor, MANAGE, row.org, f"channel:{row.id}", {"change": "changed"})
            return changed

        return _document(await self.house.db.write(write))

    @operation(MANAGE)
    async def delete(self, actor: Actor, channel_id: int) -> None:
        """Delete a channel and what waits in it. Raises `NotFound`."""
        row = await self._row(actor, channel_id)

        def write(connection: sa.Connection) -> None:
            connection.execute(alarm_outbox.delete().where(alarm_outbox.c.channel_id == channel_id))
            connection.execute(alarm_channels.delete().where(alarm_channels.c.id == channel_id))
            audit.record(connection, actor, MANAGE, row.org, f"channel:{row.id}", {"change": "deleted"})

        await self.house.db.write(write)

    async def _row(self, actor: Actor, channel_id: int) -> Any:
        query = sa.select(alarm_channels).where(alarm_channels.c.id == channel_id)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        missing = NotFound(f"没有通知渠道 {channel_id}", f"no channel {channel_id}", field="id", value=channel_id)
        return self.policy.require_seen(actor, READ, MANAGE, row, missing)

    def _check(self, new: NewChannel) -> None:
        settings = self.house.settings
        if isinstance(new.address, Webhook):
            self.house.outbound.check(new.address.url)
        elif not (settings.smtp_host if isinstance(new.address, Email) else settings.sms_url):
            missing = "smtp_host" if isinstance(new.address, Email) else "sms_url"
            raise Invalid(
                f"平台未设置 {missing}", f"the setting {missing} is empty", field="address.kind", value=new.address.kind,
                rule=missing,
            )

    # -- the task

    async def run(self, _house: House) -> None:
        """Deliver what is due, for ever."""
        due = sa.select(alarm_outbox.c.channel_id).where(alarm_outbox.c.due_at <= sa.bindparam("now")).distinct()
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                found = await self.house.db.read(lambda c: c.execute(due, {"now": utcnow()}).scalars().all())
                for channel in found:
                    if channel not in self._busy and len(running) < 64:
                        self._busy.add(channel)
                        task = asyncio.create_task(self._serve(channel))
                        running.add(task)
                        task.add_done_callback(running.discard)
                await asyncio.sleep(EVERY)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _serve(self, channel_id: int) -> None:
        """Deliver what is due of one channel, in order, up to the first that fails."""
        try:
            channel, taken = await self.house.db.write(lambda c: _take(c, channel_id))
            for at, (item, alarm) in enumerate(taken):
                error = "" if alarm is None else await self._send(channel, item, alarm)
                hours = self.house.settings.notification_hours
                if error and utcnow() - item.created_at > timedelta(hours=hours):
                    error = f"given up after {hours} h: {error}"
                    log.warning("channel %s: alarm %s: %s", channel_id, item.alarm_id, error)
                    await self.house.db.write(lambda c, i=item, e=error: _done(c, i, e))  # type: ignore[misc]
                elif error:
                    left = [row.id for row, _ in taken[at:]]
                    await self.house.db.write(lambda c, i=item, e=error, x=left: _failed(c, i, e, x))  # type: ignore[misc]
                    return
                else:
                    await self.house.db.write(lambda c, i=item: _done(c, i, ""))  # type: ignore[misc]
        except Exception:
            log.exception("channel %s", channel_id)
        finally:
            self._busy.discard(channel_id)

    async def _send(self, channel: Any, item: Any, alarm: Any) -> str:
        """Send one notification; what went wrong, empty if nothing did."""
        document = {"delivery": item.id, "event": item.event, "at": item.created_at, "alarm": self.describe(alarm)}
        try:
            if channel.kind == "webhook":
                await self._webhook(channel, item, orjson.dumps(document, option=orjson.OPT_UTC_Z))
            elif channel.kind == "email":
                await asyncio.to_thread(self._mail, channel.address["to"], _subject(document), _text(document), item.id)
            else:
                for phone in channel.address["to"]:
                    await self._sms(phone, _subject(document))
        except (TulouError, OSError, smtplib.SMTPException, ssl.SSLError) as error:
            return f"{error.zh} {error.en}" if isinstance(error, TulouError) else f"{type(error).__name__}: {error}"
        return ""

    async def _webhook(self, channel: Any, item: Any, body: bytes) -> None:
        timestamp = str(int(time.time()))
        answer = await self.house.outbound.request("POST", channel.address["url"], content=body, timeout=TIMEOUT, headers={
            "Content-Type": "application/json", "Tulou-Delivery": str(item.id), "Tulou-Timestamp": timestamp,
            "Tulou-Signature": signature(channel.secret, timestamp, body),
        })
        if not answer.ok:
            raise Unavailable(f"对方答复 HTTP {answer.status}", f"answered HTTP {answer.status}", rule="2xx")

    def _mail(self, to: list[str], subject: str, text: str, delivery: int) -> None:
        settings = self.house.settings
        letter = EmailMessage()
        letter["Subject"], letter["From"], letter["To"] = subject, settings.smtp_from, ", ".join(to)
        letter["Message-ID"] = f"<alarm-{delivery}@{settings.smtp_from.rpartition('@')[2] or 'tulou'}>"
        letter.set_content(text)
        where = settings.smtp_host, settings.smtp_port
        tls = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(*where, timeout=TIMEOUT, context=tls) if settings.smtp_security == "tls"
            else smtplib.SMTP(*where, timeout=TIMEOUT)
        ) as server:
            if settings.smtp_security == "starttls":
                server.starttls(context=tls)
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password)
            server.send_message(letter)

    async def _sms(self, phone: str, text: str) -> None:
        settings = self.house.settings
        if "json" in settings.sms_content_type:
            phone, text = json.dumps(phone)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
        else:
            phone, text = quote(phone, safe=""), quote(text, safe="")
        body = settings.sms_body.replace("{to}", phone).replace("{text}", text)
        headers = {"Content-Type": settings.sms_content_type}
        if settings.sms_authorization:
            headers["Authorization"] = settings.sms_authorization
        answer = await self.house.outbound.request(
            "POST", settings.sms_url, content=body.encode(), headers=headers, timeout=TIMEOUT
        )
        if not answer.ok:
            raise Unavailable(f"短信网关答复 HTTP {answer.status}", f"the SMS gateway answered HTTP {answer.status}", rule="2xx")


def _take(connection: sa.Connection, channel_id: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """The channel, and its next notifications that are due, with their alarms; nobody else takes them for a while."""
    now = utcnow()
    channel = connection.execute(sa.select(alarm_channels).where(alarm_channels.c.id == channel_id)).first()
    if channel is None or not channel.enabled:
        connection.execute(alarm_outbox.delete().where(alarm_outbox.c.channel_id == channel_id))
        return channel, []
    due = sa.select(alarm_outbox).where(
        alarm_outbox.c.channel_id == channel_id, alarm_outbox.c.due_at <= now
    ).order_by(alarm_outbox.c.id).limit(AT_ONCE).with_for_update(skip_locked=True)
    items = connection.execute(due).all()
    connection.execute(
        alarm_outbox.update().where(alarm_outbox.c.id.in_([item.id for item in items])).values(due_at=now + LEASE)
    )
    found = {row.id: row for row in connection.execute(
        sa.select(alarms).where(alarms.c.id.in_({item.alarm_id for item in items}))
    )}
    return channel, [(item, found.get(item.alarm_id)) for item in items]


def _done(connection: sa.Connection, item: Any, error: str) -> None:
    connection.execute(alarm_outbox.delete().where(alarm_outbox.c.id == item.id))
    told = {"last_failure": utcnow(), "last_error": error[:500]} if error else {"last_success": utcnow(), "last_error": ""}
    connection.execute(alarm_channels.update().where(alarm_channels.c.id == item.channel_id).values(**told))


def _failed(connection: sa.Connection, item: Any, error: str, left: list[int]) -> None:
    now = utcnow()
    pause = min(2 ** min(item.attempts, 20), LONGEST_PAUSE)
    connection.execute(
        alarm_outbox.update().where(alarm_outbox.c.id.in_(left)).values(due_at=now + timedelta(seconds=pause))
    )
    connection.execute(alarm_outbox.update().where(alarm_outbox.c.id == item.id).values(attempts=item.attempts + 1))
    connection.execute(alarm_channels.update().where(alarm_channels.c.id == item.channel_id).values(
        last_failure=now, last_error=error[:500]
    ))


def _values(new: NewChannel) -> dict[str, Any]:
    return {
        "name": new.name, "kind": new.address.kind, "address": new.address.model_dump(exclude={"kind"}),
        "least": new.least, "types": sa.null() if new.types is None else new.types, "enabled": new.enabled,
    }


def _document(row: Any) -> dict[str, Any]:
    """A channel as the API shows it: without its secret."""
    return {
        "id": row.id, "org": row.org, "name": row.name, "address": {"kind": row.kind, **row.address}, "least": row.least,
        "types": row.types, "enabled": bool(row.enabled), "created_at": row.created_at, "created_by": row.created_by,
        "last_success": row.last_success, "last_failure": row.last_failure, "last_error": row.last_error,
    }


EVENTS = {"raised": ("告警", "alarm"), "cleared": ("告警解除", "alarm cleared"), "escalated": ("告警升级", "alarm escalated")}


def _subject(document: dict[str, Any]) -> str:
    """One line for people, in both languages."""
    alarm = document["alarm"]
    zh, en = EVENTS[document["event"]]
    what = alarm["title"] or " ".join(filter(None, (alarm["property"], alarm["rule"])))
    shown = "" if alarm["value"] is None else f" = {alarm['value']:g}"
    synthetic = "【合成数据 synthetic】" if alarm["synthetic"] else ""
    line = f"{synthetic}{zh} {en} [{alarm['severity']}] {alarm['name'] or alarm['no']}: {what}{shown}"
    return " ".join(line.split())


def _text(document: dict[str, Any]) -> str:
    return "\n".join([_subject(document), "", *(
        f"{name}: {value}" for name, value in document["alarm"].items() if value not in (None, "")
    )])
