"""MQTT sessions as values (MQTT 5.0, 4.1, 4.3, 4.4, 4.9)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tulou.access import mqtt
from tulou.access.sessions import (
    QUEUE,
    QUEUE_BYTES,
    RELEASED,
    Client,
    Group,
    Message,
    Session,
    Subscription,
)


def message(position: int, payload: bytes = b"x", qos: int = 1, **more: object) -> Message:
    return Message(position, b"t", payload, qos, False, b"", 0.0, b"", **more)  # type: ignore[arg-type]


def subscribed(qos: int = 2, wanted: str = "t") -> tuple[Session, Subscription]:
    session = Session("fuzhou", "user:lin", "c", 0)
    session.live = True
    made = Subscription(wanted, qos, False, False, 0, 0, 0)
    session.subscribe(made)
    return session, made


def packets(data: bytes, level: int = 5) -> list[mqtt.Publish]:
    parser = mqtt.Parser()
    parser.feed(mqtt.connect("c", "u", level=level))
    runs = parser.feed(data)
    assert all(isinstance(run, (mqtt.Publish, mqtt.Ack)) for run in runs), runs
    return runs  # type: ignore[return-value]


def test_a_client_that_does_not_read_costs_bounded_memory() -> None:
    session, made = subscribed()
    taken = 0
    while session.offer(message(taken + 1, b"x" * 500), [made]):
        taken += 1
    assert taken <= QUEUE
    assert session.queue_bytes < QUEUE_BYTES + 1000
    big, made = subscribed()
    assert big.offer(message(1, b"x" * QUEUE_BYTES), [made])
    assert not big.offer(message(2), [made])


def test_the_window_is_receive_maximum() -> None:
    session, made = subscribed()
    for position in range(1, 6):
        session.offer(message(position), [made])
    client = Client(5, window=2)
    data, _ = session.pump(client, 0)
    assert sum(len(run.ids) for run in packets(data)) == 2
    assert session.pump(client, 0) == (b"", False)
    session.acknowledged(client, 4, 1, 0)
    assert packets(session.pump(client, 0)[0])[0].ids == [b"\0\3"]


def test_qos_2_is_two_steps_and_only_a_receipt_releases() -> None:
    session, made = subscribed()
    session.offer(message(1, qos=2), [made])
    client = Client(5)
    data, bound = session.pump(client, 0)
    assert bound
    assert packets(data)[0].qos == 2
    assert not session.acknowledged(client, 4, 1, 0)  # PUBACK for QoS 2 is nothing
    assert 1 in session.inflight
    assert session.acknowledged(client, 5, 1, 0)
    assert session.inflight[1].state == RELEASED
    session.resume()
    assert session.pump(Client(5), 0)[0] == mqtt.pubrel(b"\0\1")
    assert not session.acknowledged(client, 7, 1, 0)
    assert not session.inflight


def test_what_was_in_flight_comes_again_with_dup_and_its_id_and_first() -> None:
    session, made = subscribed()
    for position in (1, 2, 3):
        session.offer(message(position, b"%d" % position), [made])
    session.pump(Client(4, window=2), 0)
    session.park(9)
    assert session.position == 2  # the third was not sent: it is read from the log again
    for delivery in session.missing():
        delivery.message = message(delivery.position, b"%d" % delivery.position)
    session.resume()
    session.offer(message(3, b"3"), [made])
    (again, new) = packets(session.pump(Client(4), 0)[0], level=4)
    assert (again.dup, again.ids, again.payloads) == (True, [b"\0\1", b"\0\2"], [b"1", b"2"])
    assert (new.dup, new.ids, new.payloads) == (False, [b"\0\3"], [b"3"])


def test_overlapping_subscriptions_give_one_copy() -> None:
    session, made = subscribed(1)
    made.identifier = 7
    other = Subscription("#", 2, False, True, 0, 8, 0)
    session.subscribe(other)
    retained = message(1, qos=2)
    retained.retain = True
    session.offer(retained, session.meets(retained))
    (run,) = packets(session.pump(Client(4), 0)[0], level=4)
    assert (run.qos, run.retain, len(run.payloads)) == (2, True, 1)


def test_expiry_and_size_and_no_local() -> None:
    session, made = subscribed()
    old = message(1)
    old.expires = 100.0
    session.offer(old, [made])
    session.offer(message(2, b"y" * 100), [made])
    session.offer(message(3, b"z"), [made])
    (run,) = packets(session.pump(Client(5, packet_limit=50), 100.0)[0])
    assert run.payloads == [b"z"]
    made.no_local = True
    mine = message(4)
    mine.source = session.key
    session.offer(mine, [made])
    assert not session.queue


def test_a_topic_alias_takes_the_place_of_the_topic() -> None:
    session, made = subscribed(0)
    for position in (1, 2):
        session.offer(message(position), [made])
    first, second = packets(session.pump(Client(5, alias_maximum=1), 0)[0])
    assert (first.topic, second.topic) == (b"t", b"")
    assert first.properties is not None
    assert first.properties[0].alias == 1


def test_a_group_takes_turns_among_those_who_are_there() -> None:
    group = Group("$share/g/t", 0)
    sessions = []
    for number in range(3):
        session = Session("fuzhou", "", str(number), 0)
        made = Subscription("$share/g/t", 1, False, False, 0, 0, 0)
        session.subscribe(made)
        group.members[session.key] = (session, made)
        sessions.append(session)
    present = {sessions[0].key: 1, sessions[2].key: 1}
    got = [group.offer(message(position), present) for position in range(1, 5)]
    assert got == [sessions[0], sessions[2], sessions[0], sessions[2]]
    assert group.offer(message(5), {}) is None


@given(st.lists(st.tuples(st.sampled_from(["offer", "pump", "puback", "pubrec", "pubcomp", "park"]), st.integers(0, 2)),
                max_size=60))
def test_whatever_happens_the_record_says_what_is_left(steps: list[tuple[str, int]]) -> None:
    """What was not completed is in flight in the record, or behind its position."""
    session, made = subscribed()
    client = Client(4, window=5)
    position, done = 0, set()
    for what, qos in steps:
        first = next(iter(session.inflight), 0)
        if what == "offer" and session.live:
            position += 1
            session.offer(message(position, qos=1 + qos % 2), [made])
        elif what == "pump":
            session.pump(client, 0)
        elif what == "park":
            session.park(position)
            for delivery in session.missing():
                delivery.message = message(delivery.position, qos=delivery.qos)
            session.resume()
            client = Client(4, window=5)
        elif what.startswith("pub") and first in client.sent:
            at = session.inflight[first].position
            session.acknowledged(client, {"puback": 4, "pubrec": 5, "pubcomp": 7}[what], first, 0)
            if first not in session.inflight:
                done.add(at)
    again = Session.from_record(session.record(position, position, {}))
    left = {d.position for d in again.inflight.values()} | set(range(again.position + 1, position + 1))
    assert done | left == set(range(1, position + 1))
    assert not done & {d.position for d in again.inflight.values()}
    assert {n: (d.position, d.state) for n, d in again.inflight.items()} == {
        n: (d.position, d.state) for n, d in session.inflight.items()
    }
