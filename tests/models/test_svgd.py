import math

import numpy as np
import pytest
import torch

from alnb.errors import BadInput
from alnb.models import svgd
from alnb.models.svgd import Stein, rbf, squared_distances, svgd_descent, svgd_direction


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch):
    """Blocks that end in the middle of the columns."""
    monkeypatch.setattr(svgd, "_COLUMNS", 7)


def particles(members=5, columns=23, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    theta, grad = torch.randn(2, members, columns, generator=generator, dtype=torch.float64)
    return theta.to(dtype), grad.to(dtype)


def only_push(theta, rule=svgd.PAPER, **changes):
    return svgd_direction(theta, torch.zeros_like(theta), rule, **changes)[0]


def by_autograd(theta, grad, rule=svgd.PAPER):
    """The definition, pair by pair, the kernel's gradient taken by autograd."""
    members = len(theta)
    pairs = torch.cdist(theta, theta, compute_mode="donot_use_mm_for_euclid_dist").square()
    if rule.bandwidth == "median":
        values = sorted(pairs.flatten().tolist())
        if not rule.include_diagonal:
            values = sorted(pairs[~torch.eye(members, dtype=torch.bool)].tolist())
        half = len(values) // 2
        middle = values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
        h = middle / math.log(members + 1)
    else:
        h = rule.bandwidth
    rows = []
    for i in range(members):
        phi = torch.zeros_like(theta[0])
        for j in range(members):
            other = theta[j].clone().requires_grad_()
            kernel = torch.exp(-(other - theta[i]).square().sum() / h)
            (slope,) = torch.autograd.grad(kernel, other)
            share = kernel.detach() if rule.kernel_drive == "rbf" else float(i == j)
            phi += share * grad[j] + rule.repulsion_scale * slope
        rows.append(phi / members)
    return torch.stack(rows)


RULES = [
    Stein(),
    Stein(include_diagonal=False),
    Stein(bandwidth=17.0),
    Stein(kernel_drive="identity"),
    Stein(repulsion_scale=3.0),
    Stein(repulsion_scale=0.0),
]


@pytest.mark.parametrize("members", [2, 3, 4, 5])
@pytest.mark.parametrize("rule", RULES)
def test_the_direction_is_that_of_the_definition(rule, members):
    theta, grad = particles(members)
    phi, forces = svgd_direction(theta, grad, rule)
    assert torch.allclose(phi, by_autograd(theta, grad, rule), rtol=1e-12, atol=1e-13)
    slope = -grad
    again = svgd_descent(theta, slope, rule)
    assert torch.allclose(slope, -phi, rtol=1e-12, atol=1e-14)
    assert again.rep_ratio == pytest.approx(forces.rep_ratio)


def test_the_push_is_the_slope_of_the_kernels_by_finite_differences():
    theta, _ = particles(4, 3)
    h, eps = 2.5, 1e-5
    phi = only_push(theta, Stein(bandwidth=h))
    for i in range(4):
        for column in range(3):
            total = 0.0
            for j in range(4):
                step = torch.zeros(3, dtype=torch.float64)
                step[column] = eps
                up, down = (
                    math.exp(-float((theta[j] + way * step - theta[i]).square().sum()) / h)
                    for way in (1, -1)
                )
                total += (up - down) / (2 * eps)
            assert float(phi[i, column]) == pytest.approx(total / 4, abs=1e-9)


def test_two_particles_without_a_gradient_go_apart_as_worked_out_by_hand():
    theta = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    phi, forces = svgd_direction(theta, torch.zeros_like(theta))
    assert forces.kernel[0, 0, 1] == pytest.approx(1 / 9)
    assert forces.bandwidth[0] == pytest.approx(0.5 / math.log(3))
    assert phi.flatten().tolist() == pytest.approx([-2 * math.log(3) / 9, 2 * math.log(3) / 9])
    assert phi[1].item() == pytest.approx(0.244136, abs=1e-6)
    assert forces.rep_ratio == math.inf


def test_the_median_of_five_is_the_fourth_of_the_ten_distances():
    theta, _ = particles(5)
    squared = squared_distances(theta)
    ten = np.sort(squared[*torch.triu_indices(5, 5, 1)].numpy())
    assert rbf(squared)[1] == pytest.approx(ten[3] / math.log(6))
    assert rbf(squared, Stein(include_diagonal=False))[1] == pytest.approx(
        (ten[4] + ten[5]) / 2 / math.log(6)
    )
    assert rbf(squared, Stein(bandwidth=0.3))[1] == 0.3


def test_far_particles_climb_alone_and_near_ones_by_the_mean_gradient():
    theta, grad = particles()
    alone, forces = svgd_direction(theta, grad, Stein(bandwidth=1e-3))
    assert torch.allclose(alone, grad / 5)
    assert forces.off_diagonal[1] < 1e-100
    together, _ = svgd_direction(theta, grad, Stein(bandwidth=1e12))
    assert torch.allclose(together, grad.mean(0).expand_as(grad))
    assert only_push(theta, Stein(bandwidth=1e12)).abs().max() < 1e-10


def test_the_order_of_particles_and_their_common_place_do_not_matter():
    theta, grad = particles()
    order = torch.tensor([3, 0, 4, 1, 2])
    phi, _ = svgd_direction(theta, grad)
    assert torch.allclose(svgd_direction(theta[order], grad[order])[0], phi[order])
    push = only_push(theta)
    assert torch.allclose(only_push(theta + 100), push, rtol=1e-9)
    assert push.sum(0).abs().max() < 1e-13 * push.abs().max() * 1e3


def test_the_parts_weigh_as_reported():
    theta, grad = particles(4)
    phi, forces = svgd_direction(theta, grad, Stein(repulsion_scale=2.0))
    climb, _ = svgd_direction(theta, grad, Stein(repulsion_scale=0.0))
    ratio = ((phi - climb).norm(dim=1) / climb.norm(dim=1)).mean()
    assert forces.rep_ratio == pytest.approx(float(ratio), rel=1e-9)
    apart = torch.cdist(theta, theta).numpy()
    assert forces.distances == pytest.approx(apart, abs=1e-6)
    off = forces.kernel[0][~np.eye(4, dtype=bool)]
    assert forces.off_diagonal == (off.min(), off.max())
    assert not forces.collapsed


def test_one_particle_climbs_its_gradient_bit_for_bit():
    theta, grad = particles(1, dtype=torch.float32)
    for rule in (*RULES, Stein(bandwidth=1e-3)):
        phi, forces = svgd_direction(theta, grad, rule)
        assert torch.equal(phi, grad)
        assert forces.rep_ratio == 0
        assert not forces.collapsed
        assert math.isnan(forces.off_diagonal[0])


def test_identical_particles_stay_finite_and_are_reported():
    theta, grad = particles(4, dtype=torch.float32)
    for rule in RULES:
        phi, forces = svgd_direction(theta[:1].expand(4, -1).contiguous(), grad, rule)
        assert phi.isfinite().all()
        assert forces.collapsed
    assert forces.kernel == pytest.approx(np.ones((1, 4, 4)))
    # two in one place, the others apart
    theta[1] = theta[0]
    phi, forces = svgd_direction(theta, grad)
    assert phi.isfinite().all()
    assert forces.collapsed


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
def test_distances_of_near_particles_are_right_in_float32(spread, monkeypatch):
    monkeypatch.setattr(svgd, "_COLUMNS", 2**14)
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 100_000, generator=generator) * 0.05
    theta = centre + torch.randn(4, 100_000, generator=generator) * spread
    exact = squared_distances(theta.double())
    assert torch.allclose(squared_distances(theta), exact, rtol=2e-7, atol=0)
    phi, _ = svgd_direction(theta, torch.zeros_like(theta))
    best, _ = svgd_direction(theta.double(), torch.zeros_like(theta).double())
    assert float((phi - best).norm() / best.norm()) < 1e-6


def test_a_trainer_s_autocast_is_kept_out():
    theta, grad = particles(dtype=torch.float32)
    phi, forces = svgd_direction(theta, grad)
    with torch.autocast("cpu", torch.bfloat16):
        again, same = svgd_direction(theta, grad)
    assert torch.equal(again, phi)
    assert same.rep_ratio == forces.rep_ratio


def test_a_kernel_per_layer_treats_each_layer_as_if_it_were_alone():
    theta, grad = particles(4, 23)
    phi, forces = svgd_direction(theta, grad, groups=[3, 15, 5])
    begin = 0
    for number, width in enumerate((3, 15, 5)):
        some = slice(begin, begin + width)
        alone, its = svgd_direction(theta[:, some], grad[:, some])
        assert torch.allclose(phi[:, some], alone)
        assert forces.kernel[number] == pytest.approx(its.kernel[0])
        begin += width
    assert forces.distances == pytest.approx(svgd_direction(theta, grad)[1].distances)
    climb, _ = svgd_direction(theta, grad, Stein(repulsion_scale=0.0), groups=[3, 15, 5])
    ratio = ((phi - climb).norm(dim=1) / climb.norm(dim=1)).mean()
    assert forces.rep_ratio == pytest.approx(float(ratio))


def test_a_kernel_over_linear_predictions_is_the_chain_rule():
    theta, grad = particles(4, 6)
    jacobian = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    at = theta @ jacobian.T
    rule = Stein(bandwidth=4.0, repulsion_scale=2.0)
    phi, forces = svgd_direction(theta, grad, rule, at=at, pull=lambda rows: rows @ jacobian)
    expected = torch.zeros_like(theta)
    for i in range(4):
        for j in range(4):
            other = theta[j].clone().requires_grad_()
            kernel = torch.exp(-(jacobian @ (other - theta[i])).square().sum() / 4.0)
            (slope,) = torch.autograd.grad(kernel, other)
            expected[i] += (kernel.detach() * grad[j] + 2 * slope) / 4
    assert torch.allclose(phi, expected)
    assert forces.distances == pytest.approx(torch.cdist(at, at).numpy(), abs=1e-6)
    # predictions that are the parameters themselves leave nothing to pull
    plain, same = svgd_direction(theta, grad, rule)
    through, its = svgd_direction(theta, grad, rule, at=theta, pull=lambda rows: rows)
    assert torch.allclose(through, plain)
    assert its.rep_ratio == pytest.approx(same.rep_ratio)


def test_fifty_particles_settle_as_the_gaussian_that_pulls_them():
    generator = torch.Generator().manual_seed(1)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    theta = torch.randn(50, 2, generator=generator, dtype=torch.float64) * 0.3
    # a wide kernel matches the first two moments; the median one leaves some 12 % of the variance
    wide = Stein(bandwidth=6.0)
    for _ in range(300):
        theta += svgd_direction(theta, -(theta - mean) @ precision, wide)[0]
    assert torch.allclose(theta.mean(0), mean, rtol=0.05)
    assert torch.allclose(theta.var(0), covariance.diagonal(), rtol=0.05)


def test_one_particle_reaches_the_mode():
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    theta = torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(200):
        theta += 0.1 * svgd_direction(theta, mean - theta)[0]
    assert torch.allclose(theta[0], mean, atol=1e-6)


def test_a_hybrid_kernel_keeps_more_variance_than_the_plain_one():
    spread = {}
    for drive in ("rbf", "identity"):
        theta, _ = particles(10, 40)
        for _ in range(300):
            theta += 0.3 * svgd_direction(theta, -theta, Stein(kernel_drive=drive))[0]
        spread[drive] = float(theta.var(0).mean())
    assert spread["rbf"] < 0.5  # that of the target is 1
    assert spread["identity"] != pytest.approx(spread["rbf"], rel=0.05)


def test_the_push_of_many_parameters_is_as_small_as_predicted():
    members, columns, weight = 5, 20_000, 0.05
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(members, columns, generator=generator) * weight
    grad = torch.randn(members, columns, generator=generator)
    grad /= grad.norm(dim=1, keepdim=True)
    forces = svgd_direction(theta, grad)[1]
    assert forces.off_diagonal == pytest.approx((1 / 6, 1 / 6), rel=0.1)
    median = math.sqrt(2 * columns) * weight
    push = 2 * math.log(6) / 6 * math.sqrt(4 / 10) / median
    climb = math.sqrt(1 + 4 / 36) / 5
    assert forces.rep_ratio == pytest.approx(push / climb, rel=0.05)


def test_what_does_not_fit_is_refused():
    theta, grad = particles()
    with pytest.raises(BadInput, match=r"both be \(M, d\)"):
        svgd_direction(theta, grad[:4])
    with pytest.raises(BadInput, match="float32 or float64"):
        svgd_direction(theta.bfloat16(), grad.bfloat16())
    with pytest.raises(BadInput, match="20 columns"):
        svgd_direction(theta, grad, groups=[10, 10])
    with pytest.raises(BadInput, match="both `at` and `pull`"):
        svgd_direction(theta, grad, at=theta)
    with pytest.raises(BadInput, match="M = 5"):
        svgd_direction(theta, grad, at=theta[:3], pull=lambda rows: rows)
    for wrong in ({"bandwidth": 0.0}, {"bandwidth": "mean"}, {"repulsion_scale": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Stein(**wrong)
    with pytest.raises(ValueError, match="kernel_drive"):
        Stein(kernel_drive="linear")
