"""The hub at a broker of existing make that is a cluster: three NATS servers, one of which is killed under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.bad_link import BadLink
from tests.fakes.fleet import Hub, Process, Producer, load, stored_once, write_settings
from tests.fakes.nats import NatsCluster
from tests.integration.test_mqtt_kills import Flow
from tests.waiting import wait_until


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_server_of_the_cluster_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    """The one that hub and device are connected to; the address that they know leads to another one from then on."""
    with NatsCluster(tmp_path / "nats") as cluster, BadLink(cluster.nodes[0].port, 1) as address:
        path = write_settings(tmp_path, address.port, delivery="hub", version="3.1.1")
        producer = Producer(load(path))
        hub = Hub(tmp_path, address.port, "3.1.1")
        with hub, Process(tmp_path, "tests.fakes.uplinks", str(path)):
            with Flow(producer):
                wait_until(lambda: hub.count() >= 300, 60, "the first events")
                address.lead_to(cluster.nodes[1].port)
                cluster.nodes[0].kill()
                goal = hub.count() + 300
                wait_until(lambda: hub.count() >= goal, 120, "more events")
            stored_once(hub, producer, 120)
        producer.close()
