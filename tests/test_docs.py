import re
from pathlib import Path

import pytest

import alnb
from alnb.strategies.catalogue import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_table_of_strategies_is_the_catalogue():
    assert table() in README


def test_the_strategy_of_the_readme_keeps_the_contract_and_opens_a_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [b for b in BLOCKS if "check_strategy(Middle())" in b]
    names: dict[str, object] = {}
    exec(code, names)
    session = names["session"]
    assert session.ask(4).strategy.startswith("PerVolume(")
    session.close()


def test_the_loop_of_the_readme_runs(tmp_path, monkeypatch, hearts, project):
    monkeypatch.chdir(tmp_path)
    (code,) = [b for b in BLOCKS if "SimulatedOracle" in b]
    session = project()
    exec(code, {"alnb": alnb, "session": session})
    assert len(session.labelled) == 6
    assert list((tmp_path / "labels").glob("*_labels.nii.gz"))


def test_the_embedding_of_the_readme_is_learnt_and_asked_by(project, monkeypatch, capsys):
    from alnb.embed.train import EncoderRecipe
    from alnb.session.session import Session

    (code,) = [b for b in BLOCKS if "learn_embedding" in b]
    learn = Session.learn_embedding

    def quickly(self, weights):
        return learn(self, EncoderRecipe(weights, steps=2, size=32, batch=6, width=0.1))

    monkeypatch.setattr(Session, "learn_embedding", quickly)
    session = project()
    exec(code, {"session": session})
    assert session.embedding == "acdc"
    assert session.round.strategy.startswith("CoreSet")
    assert "| coreset | 6 |" in capsys.readouterr().out


def test_the_volumes_of_the_readme_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = [b for b in BLOCKS if 'unit="volume"' in b]
    names: dict[str, object] = {"alnb": alnb}
    exec(code, names)
    session = names["session"]
    assert all(len(session.pool.slices[row]) > 1 for row in session.pool.rows(session.round.query))
    assert "repeats=0" in capsys.readouterr().out
    session.close()


@pytest.mark.parametrize("path", sorted((ROOT / "alnb").rglob("*.py")), ids=lambda p: p.stem)
def test_no_sink_that_runs_what_a_file_says(path):
    banned = (
        r"\bHTML\(|HTMLMath\(|\bMarkdown\(|tqdm\.notebook|allow_pickle=True|weights_only=False"
        r"|\bpickle\.load|yaml\.load\(|extractall|innerHTML"
    )
    assert not re.search(banned, path.read_text())


@pytest.mark.parametrize("path", sorted((ROOT / "alnb").rglob("*.js")), ids=lambda p: p.stem)
def test_scripts_of_the_page_set_text_only(path):
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text), "nothing is fetched from outside"
