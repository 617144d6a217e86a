"""Packs that ship with the house: declarations in YAML, read and checked by the kernel and the engines."""
