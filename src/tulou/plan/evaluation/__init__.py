"""The annual evaluation of tasks and agencies: scored by a declared formula, recomputable, open to appeal."""

from tulou.plan.evaluation.service import Evaluations

__all__ = ["Evaluations"]
