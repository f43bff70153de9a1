import pytest
import torch

from alnb.errors import BadInput
from alnb.models.checkpoint import from_bytes, to_bytes

STATE = {"b": torch.arange(6).reshape(2, 3).T, "a": torch.tensor(1.5), "c": torch.zeros(0)}


def test_tensors_come_back_as_they_were():
    back = from_bytes(to_bytes(STATE))
    assert set(back) == set(STATE)
    for name, value in STATE.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_equal_states_give_equal_bytes_whatever_their_order():
    assert to_bytes(STATE) == to_bytes({name: STATE[name].clone() for name in sorted(STATE)})


def test_a_checkpoint_cut_anywhere_is_refused():
    content = to_bytes(STATE)
    for end in range(len(content)):
        with pytest.raises(BadInput, match="is damaged"):
            from_bytes(content[:end])
