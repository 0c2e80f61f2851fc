"""A whole agent and a whole hub of one fleet: faces of the sample clip reach the hub with their events, and somebody looks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import httpx
import yaml

from agent.vision.pictures import decode
from fleet.accounts import Accounts
from fleet.hub import Hub
from fleet.settings import HubSettings
from fleet.store.database import connect
from tests.fakes.agent_process import AgentProcess
from tests.fakes.door_site import DoorSite
from tests.fakes.fleet_site import FleetSite
from tests.fakes.picture_site import looked
from tests.waiting import wait_until


def settings_of(folder: Path, site: FleetSite) -> HubSettings:
    """A hub at the fleet's broker, with a door."""
    broker = site.trial.folder
    tls = {"ca_file": broker / "ca.pem", "cert_file": broker / "hub.pem", "key_file": broker / "hub.pem"}
    where = {"host": "127.0.0.1", "port": site.trial.broker.port, "client_id": "hub", "tls": tls}
    door = DoorSite(folder / "door", site.authority).settings(crl=broker / "crl.pem")
    return HubSettings.model_validate(
        {"store": f"sqlite:///{folder / 'hub.sqlite'}", "erasures": folder / "erased", "broker": where, "web": {"port": 0}, "door": door}
    )


def test_a_face_of_the_clip_is_seen_at_the_hub(tmp_path: Path, short_clip: Path, models_dir: Path, engines_dir: Path) -> None:
    with ExitStack() as stops:
        site = stops.enter_context(FleetSite(tmp_path / "site"))
        site.trial.start()
        settings = settings_of(tmp_path, site)
        hub = Hub(settings)
        engine = connect(settings.store)
        key = Accounts(engine).add_key("test", "test", "operator")[1]
        engine.dispose()
        hub.start()
        stops.callback(hub.stop)
        assert hub.door is not None
        engines_dir.mkdir(parents=True, exist_ok=True)
        config, state = tmp_path / "cam" / "almena.yaml", tmp_path / "state"
        state.mkdir()
        (state / "engines").symlink_to(engines_dir)
        config.parent.mkdir()
        own = {
            "state_dir": str(state),
            "engines": {"models_dir": str(models_dir)},
            "streams": [{"name": "door", "source": {"type": "video", "path": str(short_clip), "loop": True}, "tasks": [{"type": "faces"}]}],
            "web": {"port": 0},
            "hub": {"url": f"https://127.0.0.1:{hub.door.port}", "pictures": True, "live": True},
        }
        config.write_text(yaml.safe_dump({name: value for name, value in own.items() if name != "hub"}))
        site.join(config)
        joined = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump({**joined, "mqtt": {**joined["mqtt"], "delivery": "hub"}, "hub": own["hub"]}))
        agent = AgentProcess(tmp_path, "run", "--config", str(config), "--quiet")
        agent.start()
        stops.callback(agent.stop)
        client = stops.enter_context(httpx.Client(base_url=hub.url, headers={"Authorization": f"Bearer {key}"}, timeout=60))

        def pictured() -> list[str]:
            return [one["id"] for one in client.get("api/v1/events?kind=face").json()["events"] if one["picture"]]

        wait_until(lambda: pictured(), 60, "a face with its picture")
        assert decode(client.get(f"api/v1/events/{pictured()[0]}/picture").content).shape[0] > 50
        wait_until(lambda: client.get("api/v1/devices/cam-1").json()["reported"], 30, "the device to report itself")
        assert client.get("api/v1/devices/cam-1").json()["reported"]["state"]["hub"]["live"] is True
        begun = client.post("api/v1/devices/cam-1/live", json={"stream": "door"})
        assert begun.status_code == 200, begun.text

        def watched() -> list[str]:
            return [one["stream"] for one in httpx.get(f"{agent.page}api/1/health", timeout=60).json()["watched"]]

        wait_until(lambda: watched() == ["door"], 15, "the device to say that somebody looks")
        assert len(looked(client, begun.json()["id"], 2)) == 2
        wait_until(lambda: not watched(), 15, "nobody to look any more")
