"""The crons of prefect.yaml, as the Prefect that is installed computes them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

pytestmark = [pytest.mark.anyio, pytest.mark.core]

DEPLOYMENTS = Path(__file__).parents[2] / "prefect.yaml"


def crons() -> list[dict[str, str]]:
    """Every schedule of prefect.yaml."""
    deployments = yaml.safe_load(DEPLOYMENTS.read_text("utf-8"))["deployments"]
    return [plan for each in deployments for plan in each.get("schedules") or []]


async def test_crons_have_dates():
    """With some dependencies Prefect's scheduler fails on every cron, and only logs it."""
    assert crons()
    for plan in crons():
        cron = CronSchedule(cron=plan["cron"], timezone=plan.get("timezone", "UTC"))

        first, second = await cron.get_dates(2)

        assert datetime.now(UTC) <= first < second
