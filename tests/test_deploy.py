from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rlkv.cli.app import build_app
from rlkv_service.decision_api.http_figures import HttpFigures
from rlkv_service.decision_api.prometheus import prometheus_text
from rlkv_service.decision_api.tokens import TokenFile
from rlkv_service.sidecar.counters import Counters

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
SECRETS = DEPLOY / "secrets.sh"


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def compose() -> Any:
    return documents(ROOT / "compose.yaml")[0]


def engine_pod() -> Any:
    (found,) = (
        each["spec"]["template"]["spec"]
        for each in documents(DEPLOY / "kubernetes" / "engine.yaml")
        if each["kind"] == "StatefulSet"
    )
    return found


def found(node: Any, name: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from found(each, name)


def exposed_metrics() -> set[str]:
    service: Any = SimpleNamespace(counters=Counters(), policy=SimpleNamespace(version="1"))
    exposition = prometheus_text(service, HttpFigures()).decode()
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        family.name + ending
        for family in text_string_to_metric_families(exposition)
        for ending in endings[family.type]
    }


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_metrics_that_are_watched_are_exposed(path: Path) -> None:
    parsed = documents(path)[0]  # JSON is YAML
    words = " ".join([*found(parsed, "expr"), *found(parsed, "definition")])
    watched = set(re.findall(r"(?<![:\w])rlkv_\w+", words))
    assert len(watched) > 8
    assert watched <= exposed_metrics()


def test_rules_that_alerts_use_are_recorded() -> None:
    parsed = documents(ALERTS)
    recorded = set(found(parsed, "record"))
    assert set(re.findall(r"rlkv(?::\w+)+", " ".join(found(parsed, "expr")))) == recorded


def test_every_alert_has_a_test() -> None:
    alerts = set(found(documents(ALERTS), "alert"))
    tests = documents(DEPLOY / "prometheus" / "alerts_test.yml")
    fired = {
        test["alertname"]
        for group in found(tests, "alert_rule_test")
        for test in group
        if test.get("exp_alerts")
    }
    assert fired == alerts


def dockerfile_words(instruction: str) -> list[str]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    words: list[str] = json.loads(re.findall(rf"^{instruction} (\[.*\])$", text, re.M)[-1])
    return words


def unit_words() -> list[str]:
    text = (DEPLOY / "systemd" / "rlkv.service").read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.M)
    return shlex.split(start.replace("\\\n", " "))[1:]


def sidecar_container() -> Any:
    (container,) = engine_pod()["initContainers"]
    return container


@pytest.mark.parametrize(
    "words",
    [
        dockerfile_words("CMD"),
        compose()["services"]["sidecar"]["command"],
        unit_words(),
        sidecar_container()["args"],
    ],
    ids=["Dockerfile", "compose", "systemd", "kubernetes"],
)
def test_options_exist(words: list[str]) -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    assert words[0] == "serve"
    known = {option for parameter in commands["serve"].params for option in parameter.opts}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used
    assert used <= known


def test_the_url_of_redis_comes_from_the_environment() -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    (redis,) = (option for option in commands["serve"].params if "--redis" in option.opts)
    assert redis.envvar == "RLKV_REDIS"
    assert "RLKV_REDIS=" in " ".join(compose()["services"]["sidecar"]["entrypoint"])


def test_images_are_of_one_version() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    images = [
        *re.findall(r"^FROM (\S+)", dockerfile, re.M),
        *found(compose(), "image"),
        *found(documents(DEPLOY / "kubernetes" / "engine.yaml"), "image"),
    ]
    assert len(images) >= 7
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", image), image


def test_the_image_is_of_this_version() -> None:
    from rlkv import __version__

    image = f"rlkv-sidecar:{__version__}"
    assert compose()["services"]["sidecar"]["image"] == image
    assert sidecar_container()["image"] == image
    assert f"-t {image}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_compose_is_reached_from_this_machine_alone() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        # The sidecar's is in its image.
        assert "healthcheck" in service or "build" in service, name


def test_an_engine_is_not_held_back_by_its_sidecar() -> None:
    sidecar = sidecar_container()
    assert sidecar["restartPolicy"] == "Always"
    assert not {"startupProbe", "readinessProbe"} & sidecar.keys()


def test_the_engine_reaches_the_socket() -> None:
    pod = engine_pod()
    (engine,) = pod["containers"]
    (data,) = (a.partition("=")[2] for a in sidecar_container()["args"] if "--data-dir" in a)
    mounts = [{m["mountPath"]: m["name"] for m in c["volumeMounts"]}
              for c in (engine, sidecar_container())]  # fmt: skip
    assert mounts[0][data] == mounts[1][data]
    assert f"unix://{data}/valkey.sock" in found(engine, "value")


def test_secrets_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = subprocess.run([SECRETS, folder, "blue"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert folder.stat().st_mode & 0o777 == 0o700
    wanted = {Path(each["file"]).name for each in compose()["secrets"].values()}
    assert wanted <= {path.name for path in folder.iterdir()}
    acl = (folder / "users.acl").read_text(encoding="utf-8")
    assert "@NAMESPACE@" not in acl and "SHA256@" not in acl
    assert "~rlkv:{blue}:*" in acl

    before = (folder / "tokens").read_text(encoding="utf-8")
    again = subprocess.run([SECRETS, folder], capture_output=True, text=True)
    assert again.returncode == 2
    assert (folder / "tokens").read_text(encoding="utf-8") == before


def test_the_page_shows_the_line_of_engines() -> None:
    acl = (DEPLOY / "valkey" / "users.acl").read_text(encoding="utf-8")
    (line,) = re.findall(r"^user engine .*$", acl, re.M)
    line = line.replace("@NAMESPACE@", "default").replace("@ENGINE_SHA256@", "HASH")
    assert line in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_tokens_are_what_the_decision_api_reads(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([SECRETS, folder], check=True, capture_output=True)
    token_file = TokenFile(folder / "tokens")
    for name in ("client", "prometheus"):
        token = (folder / f"{name}_token").read_text(encoding="utf-8")
        known = token_file.find(token)
        assert known is not None and known.name == name
