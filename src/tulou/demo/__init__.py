"""A labelled synthetic province: made-up devices that speak real MQTT to a running house.

Law: from outside, as a stranger would: HTTP to register the devices, MQTT to publish. Everything is marked synthetic
where it is made (origin 3, names that begin with 合成), so it never counts towards a target.
"""
