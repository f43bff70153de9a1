"""Contracts and toys, for alnb's own tests and for anybody's extension."""

from __future__ import annotations

from alnb.testing.cohort import check_cohort as check_cohort
from alnb.testing.learner import check_learner as check_learner
from alnb.testing.strategy import ContractBroken as ContractBroken
from alnb.testing.strategy import check_strategy as check_strategy
from alnb.testing.toy import ToySnapshot as ToySnapshot
from alnb.testing.toy import toy_snapshot as toy_snapshot
