"""P networks as one are P networks."""

import pytest
import torch
from torch import Tensor

from tars.agents.networks import Activation, Networks, parameter_count
from tars.agents.random_streams import RandomStreams

SIZES = (5, 8, 7, 3)
MEMBERS = 3
ROWS = 6
shapes = pytest.mark.parametrize("outputs", [1, 3, 16])
"""A single output, few and many are multiplied each in a way of its own, where there are many rows."""
rows = pytest.mark.parametrize("rows", [ROWS, 1200], ids=["few rows", "many rows"])
activations = pytest.mark.parametrize("activation", ["relu", "tanh"])
MODULES: dict[str, type[torch.nn.Module]] = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def _networks(activation: Activation = "relu", outputs: int = 3, learning: int | None = None) -> Networks:
    sizes = (*SIZES[:-1], outputs)
    flat = torch.zeros(MEMBERS, parameter_count(sizes), dtype=torch.float64)
    networks = Networks(flat, sizes, activation, learning)
    for member in range(MEMBERS):
        networks.initialise(member, torch.Generator().manual_seed(member))
    return networks


def _alone(networks: Networks, member: int) -> torch.nn.Sequential:
    """One member as torch's own layers."""
    layers: list[torch.nn.Module] = []
    for weight, bias in networks.layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[2], dtype=torch.float64)
        linear.weight.data, linear.bias.data = weight[member].T.clone(), bias[member, 0].clone()
        layers += [linear, MODULES[networks.activation]()]
    return torch.nn.Sequential(*layers[:-1])


def _gradient(alone: torch.nn.Sequential) -> Tensor:
    return torch.cat([(p.grad.T if p.grad.dim() > 1 else p.grad).flatten() for p in alone.parameters()])  # type: ignore[union-attr] # backward has set them


def _inputs(rows: int = ROWS) -> Tensor:
    return torch.randn(MEMBERS, rows, SIZES[0], generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@shapes
@rows
@activations
def test_a_member_answers_and_is_differentiated_as_if_it_were_alone(
    activation: Activation, rows: int, outputs: int
) -> None:
    networks, inputs = _networks(activation, outputs), _inputs(rows)
    found, _ = networks.tracked(inputs)
    gradient = networks.gradient(found.square().mean((1, 2)))
    for member in range(MEMBERS):
        alone = _alone(networks, member)
        answer = alone(inputs[member])
        answer.square().mean().backward()
        assert torch.allclose(networks(inputs)[member], answer, rtol=0, atol=1e-12)
        assert torch.allclose(gradient[member], _gradient(alone), rtol=0, atol=1e-12)


@shapes
@rows
@activations
def test_the_slope_is_the_gradient_of_the_outputs_by_the_last_inputs(
    activation: Activation, rows: int, outputs: int
) -> None:
    networks, inputs = _networks(activation, outputs), _inputs(rows).requires_grad_()
    answers = torch.stack([_alone(networks, member)(inputs[member]) for member in range(MEMBERS)])
    (expected,) = torch.autograd.grad(answers.sum(), inputs)
    assert torch.allclose(networks.slope(inputs.detach(), 2), expected[..., -2:], rtol=0, atol=1e-12)


def test_no_gradient_crosses_members() -> None:
    networks = _networks()
    gradient = networks.gradient(networks.tracked(_inputs())[0][1].sum())
    assert gradient.abs().amax(1).gt(0).tolist() == [False, True, False]


def test_a_loss_may_ask_the_networks_twice() -> None:
    networks, inputs = _networks(), _inputs()
    first, second = (networks.tracked(x)[0] for x in (inputs, inputs + 1))
    gradient = networks.gradient((first * second).mean((1, 2)))
    alone = _alone(networks, 1)
    (alone(inputs[1]) * alone(inputs[1] + 1)).mean().backward()
    assert torch.allclose(gradient[1], _gradient(alone), rtol=0, atol=1e-12)


def test_only_the_members_and_the_rows_that_learn_are_differentiated() -> None:
    whole, part, inputs = _networks(), _networks(learning=2), _inputs()
    found, everything = part.tracked(inputs, 4)
    gradient = part.gradient(found.square().mean((1, 2)))
    expected = whole.gradient(whole.tracked(inputs[:, :4])[0].square().mean((1, 2)))
    assert torch.allclose(everything, whole(inputs), rtol=0, atol=1e-12)
    assert torch.allclose(gradient, expected[:2], rtol=0, atol=1e-12)


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
