import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.check import check
from config.load import load

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/denwa.service"
COMPOSE = ROOT / "deploy/compose"


def compose() -> dict[str, Any]:
    """The Compose file, its anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return loaded


def environment() -> dict[str, str]:
    """The variables of example.env, filled in."""
    lines = [line for line in (COMPOSE / "example.env").read_text().splitlines() if line and line[0] != "#"]
    return {name: "0123456789abcdef" * 4 for name, _, _ in (line.partition("=") for line in lines)} | {
        "DENWA_EXTERNAL_ADDRESS": ""
    }


def seconds(text: str) -> float:
    """A duration as Compose and systemd write it."""
    return float(text.removesuffix("s"))


def unit_values() -> dict[str, list[str]]:
    """Each key of the unit with its values."""
    values: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def test_the_mounted_configuration_is_right() -> None:
    """``denwa check`` has nothing to say about it, with the variables that example.env names and no others."""
    answer = check(COMPOSE / "denwa.yaml", environment())
    assert answer.exit_code == 0, answer.text
    assert len(answer.text.splitlines()) == 1, answer.text


def test_compose_fits_the_configuration() -> None:
    """The worker's address, the database, the scraped ports and the drain are the ones that the configuration has."""
    settings = load(COMPOSE / "denwa.yaml", environment())
    services = compose()["services"]
    worker = services["model"]["command"]
    assert settings.models["front-desk"].workers == [f"ws://{worker[worker.index('--listen') + 1]}"]
    assert settings.models[worker[worker.index("--model") + 1]].token is not None
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = [target for each in scraped for config in each["static_configs"] for target in config["targets"]]
    assert targets == [settings.observability.http_listen, worker[worker.index("--listen") + 1]]
    database = services["database"]["environment"]
    assert settings.storage.database.endswith(f"@127.0.0.1:5432/{database['POSTGRES_DB']}")
    assert settings.storage.database.startswith(f"postgresql://{database['POSTGRES_USER']}:")
    assert seconds(services["gateway"]["stop_grace_period"]) >= settings.sip.drain_s + 10


def test_what_compose_mounts_is_there() -> None:
    """Every file and folder of ours that a service mounts exists, and every volume is declared."""
    for service in compose()["services"].values():
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            assert target.startswith("/")
            if source[0] == ".":
                assert (COMPOSE / source).exists(), source
            else:
                assert source in compose()["volumes"]
    assert (COMPOSE / compose()["services"]["gateway"]["build"]["context"] / "Dockerfile").is_file()


def test_compose_is_safe_by_default() -> None:
    """No secret stands in it, nothing but SIP and audio is heard by other machines, and Denwa has no privileges."""
    text = (COMPOSE / "compose.yaml").read_text()
    services = compose()["services"]
    for name in re.findall(r"\w*PASSWORD: (.*)", text):
        assert name.startswith("${DENWA_"), name
    assert {variable for variable in re.findall(r"\$\{(\w+)", text)} <= environment().keys()
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for name in ("gateway", "model"):
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
    assert services["gateway"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert not any("/" in service["image"] and "." in service["image"].split("/")[0] for service in services.values())


def test_grafana_finds_the_dashboard() -> None:
    """The dashboard is mounted where its provider looks, and its Prometheus is the one of Compose."""
    provisioning = ROOT / "deploy/grafana/provisioning"
    provider = yaml.safe_load((provisioning / "dashboards/denwa.yml").read_text())["providers"][0]
    mounts = [mount.split(":") for mount in compose()["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/denwa.json" in [mount[1] for mount in mounts]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"


def test_the_unit_reloads_drains_and_has_no_privileges() -> None:
    """SIGHUP reloads, a stop waits for the drain of the default configuration, and a niceness of -10 is allowed."""
    values = unit_values()
    assert values["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert float(values["TimeoutStopSec"][0]) >= load(ROOT / "config/defaults/denwa.yaml", {}).sip.drain_s + 10
    assert values["KillMode"] == ["mixed"]  # the workers are the gateway's to end
    assert values["LimitNICE"] == ["-10"]
    assert values["NoNewPrivileges"] == ["yes"]
    assert values["CapabilityBoundingSet"] == [""]
    assert values["User"] == ["denwa"]
    assert values["WorkingDirectory"] == [f"/var/lib/{values['StateDirectory'][0]}"]


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Systemd finds no mistake in the unit and counts it among the well confined ones."""
    unit = tmp_path / "denwa.service"
    unit.write_text(UNIT.read_text().replace("/opt/denwa/bin/denwa", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)]
    rated = subprocess.run(security, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout[-2_000:]
