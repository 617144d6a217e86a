"""Indicators and dashboards: what packs declare over the readings, answered from the roll-ups, and the pages made of it.

The public names of the engine; other engines use these only.
"""

from __future__ import annotations

from tulou.indicators.dashboards import Dashboards
from tulou.indicators.service import Indicators

__all__ = ["Dashboards", "Indicators"]
