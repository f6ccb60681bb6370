"""What labels photos in one process: a labeler over its networks, on one device or several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotator.config import RunConfig
from annotator.engines import local
from annotator.engines.decoding import DecodePool
from annotator.engines.faults import IN_A_ROW, FailuresInARow, describe
from annotator.engines.team import Team
from annotator.errors import BrokenError, RunError
from annotator.images import ImageRef
from annotator.run import ImageRecord
from annotator.stages import stage
from annotator.vocabulary import Vocabulary
from labelers import base as labelers

if TYPE_CHECKING:
    from annotator.models.packs import Networks

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crew:
    """Ready to label. networks_of_devices: the same networks once per device."""

    config: RunConfig
    labeler: labelers.Labeler
    devices: list[str]
    networks_of_devices: list[Networks]

    @property
    def networks(self) -> Networks:
        """Those of the first device."""
        return self.networks_of_devices[0]

    @property
    def weights(self) -> dict[str, str]:
        """Slot -> SHA-256 of what was loaded for it."""
        return {slot: file["sha256"] for slot, file in self.networks.used().items()}

    def decoders(self) -> DecodePool:
        """A new pool that decodes for this crew, to be entered."""
        workers = self.config.workers if self.config.workers is not None else self.networks.decode_workers
        working_side = None if self.config.full_decode else self.labeler.working_side
        ahead = workers + 2 * self.batch_size
        return DecodePool(workers, ahead, working_side=working_side, max_pixels=self.config.max_pixels)

    def execute(
        self,
        refs: Iterable[ImageRef],
        pool: DecodePool,
        should_stop: Callable[[], bool] = lambda: False,
        failures: FailuresInARow | None = None,
    ) -> Generator[ImageRecord, None, None]:
        """Labels these photos; nothing is written. failures: counts those in a row over several calls."""
        failures = failures or self.failures()
        need_less = self._smaller_batches()
        yield from local.execute(refs, self.labeler, pool, self.batch_size, should_stop, need_less, failures)

    def failures(self) -> FailuresInARow:
        """A new count of failures in a row, which who wants every failure recorded does without."""
        return FailuresInARow(None if self.config.max_failure_rate >= 1 else IN_A_ROW)

    def _smaller_batches(self) -> Callable[[], bool]:
        """For after memory ran out: halves what the networks see at a time; False where that is one already."""
        said = False

        def need_less() -> bool:
            nonlocal said
            halved = [networks.halve_batches() for networks in self.networks_of_devices]
            if not any(halved):
                return False
            if not said:
                said = True
                _log.warning(
                    "OUT OF MEMORY on %s: going on with smaller batches, which are slower; masks are the same but for "
                    "rounding. To avoid it, use a device with more memory or stop what else runs on it",
                    ",".join(self.devices),
                )
            return True

        return need_less

    @property
    def batch_size(self) -> int:
        """Photos that are labelled together, on all devices."""
        return self.config.batch_size or self.networks.photos_at_once * len(self.devices)


def assemble(config: RunConfig, vocabulary: Vocabulary | None, device: str) -> Crew:
    """Opens the networks and prepares the labeler. device: as `--device` takes it."""
    from annotator.models.devices import resolve_devices

    devices = resolve_devices(device)
    try:
        return _assemble(config, vocabulary, devices)
    except RuntimeError as error:  # torch has it for all that a device cannot do
        from annotator.models.devices import is_out_of_memory

        problem = f"{','.join(devices)}: the networks cannot be opened: {describe(error)}"
        if not is_out_of_memory(error):
            raise BrokenError(problem) from error
        fewer = ", or try fewer --actors" if config.engine == "ray" else ""
        raise RunError(f"{problem}; end what else runs there{fewer}") from error


def _assemble(config: RunConfig, vocabulary: Vocabulary | None, devices: list[str]) -> Crew:
    from annotator.models.devices import require_compiler
    from annotator.models.packs import open_networks

    registration = labelers.find(config.labeler)
    parameters = labelers.resolve_parameters(config.labeler, config.settings)
    networks = [
        open_networks(config.pack, registration.spec, each, config.precision, config.weights) for each in devices
    ]
    if config.compile:
        require_compiler(devices[0])
        for each in networks:
            each.compiled = True
    members = [registration.build(each, parameters) for each in networks]
    labeler = members[0] if len(members) == 1 else Team(members)
    with stage("class names"):
        labeler.prepare(vocabulary)
    return Crew(config, labeler, devices, networks)
