"""Ships that were not written here: `python -m tests.conformance.ships tcp|udp PORT` sends what `pyais` encodes of the
messages that come on standard input, one JSON object a line, and ends."""

from __future__ import annotations

import json
import socket
import sys

from pyais.encode import encode_dict


def sentences(message: dict[str, object]) -> list[str]:
    """The sentences of a message, without its own fields `talker` and `kind`."""
    kind = str(message.pop("kind", "VDM"))
    return encode_dict(message, talker_id="AI", sentence_type=kind, radio_channel="A", seq_id=message.pop("seq", None))


def main() -> None:
    how, port = sys.argv[1], int(sys.argv[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if how == "udp" else socket.SOCK_STREAM) as out:
        out.connect(("127.0.0.1", port))
        for line in sys.stdin:
            for sentence in sentences(json.loads(line)):
                out.send(sentence.encode() + (b"" if how == "udp" else b"\r\n"))


if __name__ == "__main__":
    main()
