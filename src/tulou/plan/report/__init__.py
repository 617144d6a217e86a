"""The plan's report as a document: in Word and PDF, Chinese and English."""

from tulou.plan.report.service import Reports

__all__ = ["Reports"]
