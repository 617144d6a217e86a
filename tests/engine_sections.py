"""The sections of engines above the kernel, for houses that have the house's packs without those engines."""

from tulou.indicators.hooks import sections

__all__ = ["sections"]
