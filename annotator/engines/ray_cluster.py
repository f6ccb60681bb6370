"""The connection to a Ray cluster, or to one that is started here, and how actors are placed on it."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from annotator.config import RunConfig
from annotator.errors import AnnotatorError, ConfigError, RunError
from annotator.interrupts import ignored_stay_ignored

if TYPE_CHECKING:
    from annotator.models.backbone import Precision

OBJECT_STORE_BYTES = 256 << 20
"""Of a cluster that is started here: what goes through it is names of photos."""
KNOCK_SECONDS = 10.0

Resources = Mapping[str, float]
"""What a node has: CPU, GPU."""


@dataclass(frozen=True)
class Placement:
    """gpus, cpus: of each actor."""

    actors: int
    gpus: float
    cpus: int

    def __str__(self) -> str:
        each = f"{self.gpus:g} GPU and {self.cpus} CPU" if self.gpus else f"{self.cpus} CPU"
        return f"Ray actors: {self.actors} with {each} each"

    @property
    def device(self) -> str:
        """As an actor sees it: Ray shows it its own GPUs only."""
        return "cpu" if not self.gpus else "cuda" if self.gpus <= 1 else "cuda:*"


@dataclass(frozen=True)
class Cluster:
    """This process's connection to Ray.

    precision: what `--precision` comes to on the actors' devices.
    started:   the cluster is of this process and ends with the run.
    """

    config: RunConfig
    placement: Placement
    precision: Precision
    address: str
    started: bool

    @classmethod
    def join(cls, config: RunConfig) -> Cluster:
        """Connects, decides what goes where and asks a node what it can compute."""
        import ray

        address = config.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        started = not ray.is_initialized()
        if started:
            with ignored_stay_ignored():
                _connect(address)
        try:
            placement = place(_nodes(), config)
            return cls(config, placement, _precision(config.precision, placement), address, started)
        except BaseException:
            if started:
                ray.shutdown()
            raise

    def is_whole(self) -> bool:
        """Whether there is still room for every actor."""
        return _room(_nodes(), self.placement.cpus, self.placement.gpus) >= self.placement.actors

    def regroup(self) -> Cluster:
        """The same with as many of the actors as the nodes that are left hold."""
        placement, nodes = self.placement, _nodes()
        actors = min(placement.actors, _room(nodes, 1, placement.gpus))
        if not actors:
            raise RunError("the Ray cluster lost the last node that could label; the same command goes on")
        return replace(self, placement=place(nodes, replace(self.config, actors=actors, gpus_per_actor=placement.gpus)))

    def execution(self) -> dict[str, Any]:
        """For the manifest: what only decides speed."""
        placement = self.placement
        return {
            "engine": "ray",
            "device": placement.device,
            "actors": placement.actors,
            "gpus_per_actor": placement.gpus,
            "cpus_per_actor": placement.cpus,
            "ray_address": self.address,
        }

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the cluster, or ends the one that was started here."""
        import ray

        if self.started:
            ray.shutdown()


def require_ray(config: RunConfig) -> None:
    """Complains of what needs no cluster to be known."""
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"--device {config.device}: with --engine ray, expected auto, cpu or cuda, for Ray hands out the GPUs; "
            "--gpus-per-actor says how many"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of clusters started here nothing is sent anywhere
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # its lines on standard output are in its log files, too
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--engine ray needs more packages ({error}): pip install 'annotate[ray]'") from None


def place(nodes: Sequence[Resources], config: RunConfig) -> Placement:
    """How many actors, and what each gets; all CPUs are divided among them."""
    cpus, gpus = sum(node.get("CPU", 0) for node in nodes), sum(node.get("GPU", 0) for node in nodes)
    wanted = config.gpus_per_actor
    if wanted is None:
        wanted = 0.0 if config.device == "cpu" or not gpus else 1.0
    if config.device == ("cuda" if not wanted else "cpu"):
        raise ConfigError(
            f"--device {config.device}: expected GPUs exactly for cuda, but an actor gets {wanted:g} of the cluster's "
            f"{gpus:g}; leave --device or --gpus-per-actor out"
        )
    if wanted > 1 and not wanted.is_integer():
        raise ConfigError(f"--gpus-per-actor {wanted:g}: expected a whole number, or a share of one GPU")
    most = _room(nodes, 1, wanted)
    actors = config.actors or (most if wanted else max(1, int(cpus) // 2))
    if not most:
        raise ConfigError(
            f"no node has the CPU and {wanted:g} GPUs that an actor takes; the cluster has {cpus:g} CPUs and {gpus:g} "
            "GPUs: lower --gpus-per-actor or add nodes"
        )
    if actors > most:
        raise ConfigError(
            f"--actors {actors}: expected at most {most}, as the cluster has {cpus:g} CPUs and {gpus:g} GPUs and an "
            f"actor takes a CPU and {wanted:g} GPUs; ask for fewer, or add nodes"
        )
    share = next(share for share in range(int(cpus) // actors, 0, -1) if _room(nodes, share, wanted) >= actors)
    return Placement(actors, wanted, share)


def _room(nodes: Sequence[Resources], cpus: int, gpus: float) -> int:
    """How many actors of that size the nodes hold."""
    most = 0
    for node in nodes:
        by_cpus = int(node.get("CPU", 0)) // cpus
        whole = int(node.get("GPU", 0))  # a share of a GPU is a share of one: 0.4 fits twice on each
        by_gpus = by_cpus if not gpus else whole * math.floor(1 / gpus) if gpus <= 1 else whole // int(gpus)
        most += min(by_cpus, by_gpus)
    return most


def _nodes() -> list[Resources]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _connect(address: str) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address == "local":
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
            return
        if address != "auto":
            _knock(address)
        ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if address == "local":
            raise ConfigError(
                f"cannot start Ray on this machine: {reason}; its files and sockets go below $RAY_TMPDIR, "
                "or else $TMPDIR, or else /tmp: expected a folder with a short name that can be written"
            ) from None
        raise ConfigError(
            f"--ray-address {address}: expected HOST:PORT or auto of a Ray cluster that this machine is a node of, "
            f"but cannot join it ({reason}); `ray start --head` starts one"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError or ValueError at once where nobody answers; Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS):
        pass


def _precision(name: str, placement: Placement) -> Precision:
    if not placement.gpus:
        return _precision_here(name, "cpu")
    import ray

    probe = ray.remote(num_cpus=1, num_gpus=placement.gpus)(_precision_here)
    try:
        precision: Precision = ray.get(probe.remote(name, "cuda"))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, AnnotatorError) else error from None
    return precision


def _precision_here(name: str, device: str) -> Precision:
    from annotator.models.devices import resolve_device, resolve_precision

    return resolve_precision(name, resolve_device(device))
