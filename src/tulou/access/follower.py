"""Reading the stream READINGS beside the writer, in its order and without gaps.

Law: a durable consumer that acknowledges nothing and is made anew from the reader's own position whenever a delivery was
lost, so redelivery is not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from tulou.kernel.bus import Bus

log = logging.getLogger("tulou.access")


class Follower:
    """One reader, of the durable name `name`."""

    def __init__(self, stream: str, name: str) -> None:
        self.lag = 0
        """Messages that were behind the last one."""
        self._stream, self._name = stream, name
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._expected = 1

    async def read(self, bus: Bus, position: int, size: int, patience: float = 0.25) -> list[Msg]:
        """What is behind `position`, from about `size` bytes on no more; waits for it up to `patience` seconds."""
        js, have = bus.js, 0
        found: list[Msg] = []
        try:
            if self._subscription is None:
                with contextlib.suppress(NotFoundError):
                    await js.delete_consumer(self._stream, self._name)
                await js.add_consumer(self._stream, ConsumerConfig(
                    durable_name=self._name, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=position + 1,
                ))
                self._subscription = await js.pull_subscribe_bind(self._name, self._stream)
                self._expected = 1
            while have < size:
                for message in await self._subscription.fetch(32, timeout=patience):
                    place = message.metadata
                    if place.sequence.consumer != self._expected:
                        log.warning("a delivery was lost; reading the stream again from %d", position + 1)
                        await self.drop()
                        return found
                    self._expected += 1
                    self.lag = place.num_pending
                    if place.sequence.stream > position:
                        position = place.sequence.stream
                        found.append(message)
                        have += len(message.data)
                if not self.lag:
                    break
        except (nats.errors.TimeoutError, TimeoutError):
            if not found:
                self.lag = 0
        except (nats.errors.Error, OSError) as error:
            log.debug("fetch: %r", error)
            await self.drop()
            await asyncio.sleep(0.2)
        return found

    async def drop(self) -> None:
        """Read from the position that is named next."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
