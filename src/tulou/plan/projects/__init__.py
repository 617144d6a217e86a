"""Projects of the plan's tasks: milestones, funding by source, quotas of land and energy; money and quotas are entries of the ledger."""

from tulou.plan.projects.service import Projects

__all__ = ["Projects"]
