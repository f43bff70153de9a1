"""Ways of asking for whole volumes that are compared with each other, by name.

=================== ==================== ======== =================================================
arm                 committee            labelled asks for
=================== ==================== ======== =================================================
svgd_mi             Stein                kept     entropy minus mutual information
svgd_mi_delete      Stein                leave    the same
epistemic           Stein                leave    entropy alone
epistemic_keep      Stein                kept     the same
entropy             deep ensemble        leave    entropy alone: the plain-ensemble control
jsd                 Stein                leave    the members' divergence from their mean (BALD)
max_cover           Stein                leave    uncertain volumes that cover the pool
random              Stein                leave    chance
random_ensemble     deep ensemble        leave    chance: compares the two committees by themselves
foreground_random   Stein                leave    chance among volumes that hold structures
full                Stein                all      nothing: the whole pool at once
=================== ==================== ======== =================================================

"leave": a labelled volume is not asked for again; "kept": it may be, at no cost, and weighs more in
the next training. The Stein committee's members are particles of one posterior; those of the deep
ensemble, with the same beginnings and batches, know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Asks = Literal["redundancy", "entropy", "jsd", "max_cover", "random", "foreground", "all"]


@dataclass(frozen=True)
class Arm:
    """A way of asking, and the committee that answers for it.

    asks : the strategy. ensemble : a deep ensemble, without anything between the members.
    keep : labelled volumes may be asked for again.
    """

    asks: Asks
    ensemble: bool = False
    keep: bool = False


ARMS = {
    "svgd_mi": Arm("redundancy", keep=True),
    "svgd_mi_delete": Arm("redundancy"),
    "epistemic": Arm("entropy"),
    "epistemic_keep": Arm("entropy", keep=True),
    "entropy": Arm("entropy", ensemble=True),
    "jsd": Arm("jsd"),
    "max_cover": Arm("max_cover"),
    "random": Arm("random"),
    "random_ensemble": Arm("random", ensemble=True),
    "foreground_random": Arm("foreground"),
    "full": Arm("all"),
}
COMPARED = (
    *("svgd_mi", "svgd_mi_delete", "epistemic", "entropy", "jsd"),
    *("max_cover", "random", "foreground_random", "full"),
)
"""The arms of a preset unless others are named."""
