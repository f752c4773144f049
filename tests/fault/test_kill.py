"""SIGKILL before any step of a run: the next run finishes it, the way back is exact, and IPv4 is there again."""

import pytest
from conftest import SERVICES


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_run_killed_before_any_step_is_made_good_by_the_next(host, service, survived):
    [[kills, *wrong]] = host.play(service, ["sweep", host.params(service), service.question])
    assert not wrong, (kills, wrong)
    assert kills > 10
    survived(service, "SIGKILL", kills)
