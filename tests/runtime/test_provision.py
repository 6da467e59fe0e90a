"""`tars provision` makes what the declarations say, changes what drifted, and workers only compare."""

import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import APIError

from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import NotProvisioned, check_provisioned, provision
from tars.runtime.servers import Server
from tars.schemas.streams import BUCKETS, DURABLES, STREAMS

pytestmark = pytest.mark.anyio


async def test_provisioning_twice_changes_nothing(bus: Bus) -> None:
    again = await provision(bus.jetstream, ack_wait=2.0)
    assert set(again.values()) == {"unchanged"}
    stores = {bucket.stream for bucket in BUCKETS.values()}
    assert set(again) == set(STREAMS) | stores | {f"{d.stream}/{d.name}" for d in DURABLES.values()}


async def test_a_drifted_durable_is_put_right(bus: Bus) -> None:
    drifted = ConsumerConfig(durable_name="run-trial", filter_subject="tars.command.trial.>", ack_wait=99)
    await bus.jetstream.add_consumer("TRIALS", drifted)
    done = await provision(bus.jetstream, ack_wait=2.0)
    assert done["TRIALS/run-trial"] == "changed"
    assert (await bus.jetstream.consumer_info("TRIALS", "run-trial")).config.ack_wait == 2.0


async def test_limits_that_came_later_are_set_on_streams_that_hold_messages(bus: Bus) -> None:
    older = (await bus.stream("COMMANDS")).config.evolve(max_msg_size=-1)
    await bus.jetstream.update_stream(older)
    await bus.jetstream.publish("tars.command.study.start.v1.s", b" " * 2_000_000, stream="COMMANDS")
    assert (await provision(bus.jetstream, ack_wait=2.0))["COMMANDS"] == "changed"
    with pytest.raises(APIError, match="message size exceeds maximum allowed"):
        await bus.jetstream.publish("tars.command.study.start.v1.s", b" " * 2_000_000, stream="COMMANDS")
    assert (await bus.stream("COMMANDS")).state.messages == 1


async def test_the_ledger_can_neither_be_purged_nor_lose_a_message(bus: Bus) -> None:
    await bus.jetstream.publish("tars.event.agent.started.v1.a", b"{}", stream="EVENTS")
    with pytest.raises(APIError):
        await bus.jetstream.purge_stream("EVENTS")
    with pytest.raises(APIError):
        await bus.jetstream.delete_msg("EVENTS", 1)


async def test_a_worker_on_a_bare_server_says_what_to_run(nats_server: Server) -> None:
    bus = await connect_bus(nats_server.url, "test", patience=5)
    with pytest.raises(NotProvisioned, match="COMMANDS/update-command.*tars provision"):
        await check_provisioned(bus.jetstream, ["update-command"])
    await bus.close()
