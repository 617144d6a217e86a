"""Named groups of devices within an organisation."""
