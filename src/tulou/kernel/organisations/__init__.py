"""Organisations, people, roles, sessions, tokens: who is asking, and on whose behalf."""

from tulou.kernel.organisations.credentials import Credentials
from tulou.kernel.organisations.service import Organisations, People

__all__ = ["Credentials", "Organisations", "People"]
