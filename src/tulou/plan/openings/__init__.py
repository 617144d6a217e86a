"""What organisations open to others: sites and facilities to share, and scenarios to apply for."""

from tulou.plan.openings.service import Openings

__all__ = ["Openings"]
