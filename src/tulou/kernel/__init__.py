"""The courtyard: what every room shares. Nothing here knows an engine by name."""
