"""How the roles of a world play together, as the page and the command line show it."""

from stage import Stage, show, texts, until

from tars.schemas.game import GameReported


def report(stage: Stage, world: str, *nash_conv: float) -> None:
    """Measure a world, until the page can see it."""
    stage.publish(
        *(
            GameReported(
                game_id=world, episode=50 * n, conflicts={"veto": 0.25, "starved": 0.125}, latency=0.1, nash_conv=value,
                gains={"policy": value / 4, "ethical": 0.0},
            )
            for n, value in enumerate(nash_conv, 1)
        )
    )  # fmt: skip
    until(lambda: metrics(world).get("NashConv") == f"{nash_conv[-1]:.2f}")


def metrics(world: str) -> dict[str, str]:
    return {metric.label: metric.value for metric in show("coordination", id=world).metric}


def test_without_a_world_the_page_says_how_one_comes(stage: Stage) -> None:
    assert "`tars run agents` hosts worlds" in texts(show("coordination"))


def test_a_world_shows_its_newest_measurement_and_its_curves(stage: Stage) -> None:
    report(stage, "world-1", 0.5, 0.25)
    page = show("coordination")
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["world"] == "world-1"
    assert (shown["NashConv"], shown["conflicts a step"]) == ("0.25", "0.38")
    assert "What each role could still gain" in texts(page)
    assert len(page.get("vega_lite_chart")) == 3


def test_each_world_has_its_address(stage: Stage) -> None:
    report(stage, "world-2", 0.125)
    report(stage, "world-3", 0.75)
    page = show("coordination", id="world-2")
    page = page.selectbox(key="world").select("world-3").run()
    assert page.query_params["id"] in ("world-3", ["world-3"])
    assert {metric.label: metric.value for metric in page.metric}["NashConv"] == "0.75"
    assert "There is no news of a world nowhere." in texts(show("coordination", id="nowhere"))
