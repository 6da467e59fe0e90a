"""P networks as one are P networks."""

import pytest
import torch
from torch import Tensor

from tars.agents.networks import Networks, parameter_count
from tars.agents.random_streams import RandomStreams

SIZES = (5, 8, 7, 3)
MEMBERS = 3


def _networks() -> Networks:
    networks = Networks(torch.zeros(MEMBERS, parameter_count(SIZES), dtype=torch.float64), SIZES)
    for member in range(MEMBERS):
        networks.initialise(member, torch.Generator().manual_seed(member))
    return networks


def _alone(networks: Networks, member: int) -> torch.nn.Sequential:
    """One member as torch's own layers."""
    layers: list[torch.nn.Module] = []
    for weight, bias in networks.layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[2], dtype=torch.float64)
        linear.weight.data, linear.bias.data = weight[member].T.clone(), bias[member, 0].clone()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _inputs() -> Tensor:
    return torch.randn(MEMBERS, 6, SIZES[0], generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("member", range(MEMBERS))
def test_a_member_answers_and_is_differentiated_as_if_it_were_alone(member: int) -> None:
    networks, inputs = _networks(), _inputs()
    alone = _alone(networks, member)
    answer = alone(inputs[member])
    answer.square().mean().backward()
    expected = torch.cat([(p.grad.T if p.grad.dim() > 1 else p.grad).flatten() for p in alone.parameters()])  # type: ignore[union-attr] # backward has set them
    gradient = networks.gradient(networks.tracked(inputs)[0].square().mean((1, 2)).sum())
    assert torch.allclose(networks(inputs)[member], answer, rtol=0, atol=1e-12)
    assert torch.allclose(gradient[member], expected, rtol=0, atol=1e-12)


def test_no_gradient_crosses_members() -> None:
    networks = _networks()
    gradient = networks.gradient(networks.tracked(_inputs())[0][1].sum())
    assert gradient.abs().amax(1).gt(0).tolist() == [False, True, False]


def streams(seeds: list[int]) -> RandomStreams:
    return RandomStreams(seeds, torch.float32, torch.device("cpu"))


def test_a_lanes_numbers_depend_on_its_own_seed_only() -> None:
    crowd, alone = streams([1, 2, 3]), streams([2])
    assert torch.equal(crowd.uniform(4, 5)[:, 1], alone.uniform(4, 5)[:, 0])
    crowd.reseed(0, 99)
    assert torch.equal(crowd.uniform(4, 5)[:, 1], alone.uniform(4, 5)[:, 0])


def test_a_reseeded_lane_starts_the_stream_of_its_new_seed() -> None:
    crowd = streams([1, 2])
    crowd.uniform(7)
    crowd.reseed(1, 5)
    assert torch.equal(crowd.uniform(3)[:, 1], streams([5]).uniform(3)[:, 0])


def test_a_stream_goes_on_where_it_was_left() -> None:
    left, other = streams([1, 2]), streams([8, 9])
    left.normal(3)
    other.set_state(0, left.state(1))
    assert torch.equal(left.uniform(4)[:, 1], other.uniform(4)[:, 0])
