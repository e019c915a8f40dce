"""Standardised features: mean zero, deviation one, constants only centred."""

import torch

from weightspace.metanets.standardise import BatchStandardise, Standardise


def test_features_of_the_networks_fitted_on_have_mean_zero_and_deviation_one() -> None:
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1e3]) + 5
    layer = Standardise(3)
    layer.fit(values)
    made = layer(values)
    torch.testing.assert_close(made.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_a_constant_is_centred_and_not_blown_up() -> None:
    layer = Standardise(2)
    layer.fit(torch.tensor([[0.1, 0.0]] * 7))
    assert layer(torch.tensor([[0.1 + 1e-7, 3.0]])).abs().max() == 3


def test_a_batch_is_standardised_in_training_and_as_fitted_after() -> None:
    torch.manual_seed(0)
    layer = BatchStandardise(2)
    batch = 3 + 1e-4 * torch.randn(200, 2)
    made = layer(batch)
    assert made.mean(0).abs().max() < 1e-2 and made.std(0).sub(1).abs().max() < 0.01
    assert torch.equal(layer.eval()(batch), batch)  # it was not fitted yet
    layer.fit(batch)
    torch.testing.assert_close(layer(batch), made, rtol=0.01, atol=0.01)
    torch.testing.assert_close(layer.train()(batch[:1]), layer.eval()(batch[:1]))  # one network has no deviation
