import torch

from alnb.models import memory
from alnb.models.memory import Peak, free_bytes

MIB = 2**20


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_peak_counts_what_lives_at_once_and_each_storage_once():
    given = torch.ones(MIB // 4)  # made outside, so not counted
    with Peak() as mode:
        first = given + 1
        first.add_(1)
        view = first[::2]
        assert mode.now == mode.peak == MIB
        second = torch.cat([first, first])
        assert mode.peak == 3 * MIB
        del first, view
        assert mode.now == 2 * MIB
        del second
    assert (mode.now, mode.peak) == (0, 3 * MIB)


def test_the_peak_sees_what_autograd_keeps():
    x = torch.ones(MIB // 4, requires_grad=True)
    with Peak() as mode:
        value = (x.exp() * x.exp()).sum()
        assert mode.now >= 2 * MIB, "both factors, for the backward pass"
        value.backward()
        del value
    assert mode.now == MIB, "the gradient is left"


def test_memory_is_the_least_of_machine_and_control_groups(tmp_path):
    write(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:   5000 kB\n")
    assert memory._available(tmp_path / "meminfo") == 5000 * 1024
    assert memory._available(tmp_path / "nothing") is None
    write(tmp_path, mine="0::/jobs/seven\n")
    stat = "anon 3\ninactive_file 40\n"
    write(
        tmp_path / "cgroup" / "jobs" / "seven",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat=stat,
    )
    write(
        tmp_path / "cgroup" / "jobs",
        memory__max="max\n",
        memory__current="9000\n",
        memory__stat=stat,
    )
    found = [*memory._groups(tmp_path / "mine", tmp_path / "cgroup")]
    assert found == [340, None, None], "its own group, the one above without a limit, the root"
    write(tmp_path, old="4:memory:/host/path\n3:cpu:/elsewhere\n")
    write(
        tmp_path / "cgroup" / "memory",
        memory__limit_in_bytes="500\n",
        memory__usage_in_bytes="450\n",
        memory__stat="total_inactive_file 10\n",
    )
    found = [*memory._groups(tmp_path / "old", tmp_path / "cgroup")]
    assert found == [None, None, 60], "a container, whose root is its own group"
    write(tmp_path / "cgroup" / "memory", memory__limit_in_bytes=f"{2**63 - 4096}\n")
    assert set(memory._groups(tmp_path / "old", tmp_path / "cgroup")) == {None}


def test_free_memory_of_this_machine_is_a_plausible_number():
    found = free_bytes(torch.device("cpu"))
    assert found is None or 0 < found < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_a_machine_without_control_groups_says_nothing(tmp_path):
    write(tmp_path, mine="0::/a/b\n")
    assert set(memory._groups(tmp_path / "mine", tmp_path / "cgroup")) == {None}
    assert [*memory._groups(tmp_path / "none", tmp_path / "cgroup")] == []
