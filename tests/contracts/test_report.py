"""How a broken contract shows in a notebook."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from alnb.testing import ContractBroken, check_strategy


class Twice:
    def __repr__(self):
        return "Twice()"

    def select(self, snapshot, n, *, rng):
        raise RuntimeError("no idea")


def test_a_notebook_shows_the_report_and_no_frames(capsys):
    with pytest.raises(ContractBroken) as caught:
        check_strategy(Twice())
    shell = InteractiveShell()
    shell.showtraceback((caught.type, caught.value, caught.tb))
    shown = capsys.readouterr().out
    for line in str(caught.value).splitlines():
        assert line in shown
    assert shown.lstrip("\x1b[1m").startswith("ContractBroken: Twice() breaks")
    assert "Traceback" not in shown
    assert ".py" not in shown
