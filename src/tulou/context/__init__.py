"""Context: the NGSI-LD engine, the spine for entities and their current state (ETSI GS CIM 009 v1.9.1)."""
