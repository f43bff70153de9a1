"""The loop on real hearts: few steps at a small size, enough to see that it learns."""

import pytest

from alnb.cli import main


@pytest.mark.data
@pytest.mark.slow
def test_the_loop_learns_real_hearts_from_expert_scribbles(acdc_root, tmp_path, capsys):
    command = ["run", "--data", acdc_root, "--pool", "1-12", "--val", "13-14", "--test", "15-18"]
    command += ["--strategy", "strided", "--budget", "24", "--rounds", "2", "--seed", "0"]
    command += ["--size", "96", "--steps", "150", "--project", tmp_path / "project"]
    assert main([str(word) for word in command]) == 0
    lines = capsys.readouterr().out.splitlines()
    dice = [float(line.split()[4]) for line in lines if "%   test" in line]
    assert len(dice) == 2
    # far above chance, far below what a whole training reaches; a broken loss or sampler gives 0
    assert dice[-1] > 0.35
