"""Contracts and toys, for alnb's own tests and for anybody's extension."""

from __future__ import annotations

from alnb.testing.toy import ToySnapshot as ToySnapshot
from alnb.testing.toy import toy_snapshot as toy_snapshot
