"""OGC SensorThings API Part 1: Sensing 1.1 (OGC 18-088): a door over the house's entities and readings.

Law: a door, no second store. `odata` reads what is asked, `model` says what the house's things are called here,
`selection` and `evaluate` answer conditions, `service` decides, `routes` speaks HTTP; `topics` and, in the gateway, `publishing` speak MQTT, and
`asked` answers the latter.
"""
