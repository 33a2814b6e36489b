"""What cannot be a cluster is refused with the remedy; Ray does not run here."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from focusdoc.cluster import ray_holders
from focusdoc.cluster.holder import HolderSettings
from focusdoc.cluster.ray_holders import open_cluster
from focusdoc.errors import ClusterError, ConfigError


@pytest.fixture
def settings() -> HolderSettings:
    return HolderSettings(model=None, adapter=None, fingerprint="")


def test_without_ray(settings: HolderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ClusterError, match=r"pip install 'focusdoc\[cluster\]'"):
        open_cluster(2, settings)


def test_fewer_than_one_process(settings: HolderSettings) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")
    with pytest.raises(ConfigError, match="at least 1"):
        open_cluster("0", settings)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "nonsense"])
def test_nobody_answers(address: str, settings: HolderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")

    def finds_none(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    if address == "auto":  # Ray itself would find the cluster of tests that run beside this one
        monkeypatch.setattr(ray, "init", finds_none)
    with pytest.raises(ClusterError, match=f"Nobody answers at the cluster {address}"):
        open_cluster(address, settings)


def test_the_address_of_a_client(settings: HolderSettings) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")
    with pytest.raises(ConfigError, match="on a host of the cluster"):
        open_cluster("ray://127.0.0.1:9", settings)


def test_a_time_limit_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_holders.TIMEOUT_VARIABLE, "soon")
    with pytest.raises(ConfigError, match="soon"):
        ray_holders._timeout()
