"""What cells cost, and when a run has used what it may."""

import pytest

from anything3d.errors import ConfigError
from pipeline.config import Price, load
from pipeline.price import Spending, Spent, cost, spent

PRICES = ("price.gpu_hour=2.0", "price.cpu_hour=0.1", "price.currency=EUR")


def test_the_cost_is_that_of_gpus_and_of_cpus():
    price = Price(gpu_hour=2.0, cpu_hour=0.1)
    assert cost(3600, 1800, 4, price) == pytest.approx(0.5 * 2.0 + 4 * 0.1)
    assert cost(3600, 1800, 4, Price()) == 0


def test_an_actor_pays_for_the_larger_of_its_cpus_and_its_threads():
    config = load([], [*PRICES, "resources.lift.threads=8", "resources.mesh.num_cpus=3"])
    assert spent("lift", 3600, 0, config).cost == pytest.approx(0.8)
    assert spent("mesh", 3600, 0, config).cost == pytest.approx(0.3)


def test_what_was_spent_adds_up_and_is_told():
    both = Spent(1800, 900, 1.5) + Spent(1800, 0, 0.5)
    assert both == Spent(3600, 900, 2.0)
    assert both.told("EUR") == "1 hours of actors, 0.25 GPU-hours, 2.00 EUR"
    assert "EUR" not in Spent(3600).told("EUR")


def test_a_limit_is_reached_when_so_much_is_used_and_not_before():
    config = load([], [*PRICES, "resources.lift.num_gpus=0.5"])
    by_hours, by_cost = Spending.allowed(config, 0.5, None), Spending.allowed(config, None, 10)
    for spending in (by_hours, by_cost, Spending.allowed(config, None, None)):
        spending.spent = Spent(9e9, 1799, 9.99)
        assert spending.reached() is None
    by_hours.spent = Spent(1, 1800, 0)
    by_cost.spent = Spent(1, 0, 10.0)
    assert "The run used 0.5 GPU-hours; --max-gpu-hours allows 0.5." in str(by_hours.reached())
    assert "The run used 10.00 EUR; --max-cost allows 10." in str(by_cost.reached())


def test_limits_that_a_cluster_without_gpus_could_never_reach_are_refused():
    config = load([], [*PRICES, "resources.lift.num_gpus=0.5"])
    with pytest.raises(ConfigError, match=r"no_gpu_share: .*--max-gpu-hours"):
        Spending.allowed(config, 1.0, 10.0).check_without_gpus(config.price)
    with pytest.raises(ConfigError, match=r"no_gpu_share: .*--max-cost would .* Set price\.cpu_hour"):
        Spending.allowed(config, None, 10.0).check_without_gpus(Price(gpu_hour=2.0))
    Spending.allowed(config, None, 10.0).check_without_gpus(config.price)
    Spending.allowed(config, None, None).check_without_gpus(Price())


def test_limits_that_could_never_be_reached_are_refused():
    with pytest.raises(ConfigError, match="no_gpu_share"):
        Spending.allowed(load([], PRICES), 1.0, None)
    with pytest.raises(ConfigError, match="no_price"):
        Spending.allowed(load([]), None, 1.0)
