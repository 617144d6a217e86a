"""Edges: whole small houses that go on alone, and bring what they took to a larger one, the hub, when the link is there.

`uplink.py` runs at the edge, `service.py` and `routes.py` answer it at the hub; `wire.py` is what they say to each other
(docs/decisions/0015-edge.md).
"""

BEARER = "edge"
"""The bearer of commands that an edge takes for its devices."""
