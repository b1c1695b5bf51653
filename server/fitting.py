"""Whether a bundle can be served as the settings say: by a machine's memory, over so many devices."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from engines.bundles import Bundle
from engines.bundles.requirements import Requirements, requirements
from engines.errors import BackendUnavailable, BundleError
from engines.mllm.vllm_config import Role
from server.settings import Settings

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a bundle would be served: so many equal devices with `memory` bytes each."""

    name: str
    devices: int
    memory: int


def this_machine() -> Machine:
    """Its GPUs, if it has any, else its memory, which can be shared by any number of processes."""
    import torch  # takes seconds

    if torch.cuda.is_available():
        memory = min(
            torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())
        )
        return Machine(torch.cuda.get_device_name(0), torch.cuda.device_count(), memory)
    return Machine("CPU", 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def wanted_roles(settings: Settings, bundle: Bundle) -> tuple[Role, ...]:
    """The vLLM servers' roles: the bundle's, or without the second server where the first is tapped.

    Raises BackendUnavailable where there is nothing to tap.
    """
    if settings.concentrate == "server":
        return bundle.roles
    if "reason" not in bundle.roles or "concentrate" not in bundle.roles:
        raise BackendUnavailable(f"concentrate=tap: {bundle.name} has no second server that a tap could save")
    return ("reason",)


def misfits(settings: Settings, machine: Machine, *, vision_alone: bool = False) -> list[str]:
    """What keeps `machine` from serving the settings' bundle as they say, a sentence each; digests are not compared.

    `vision_alone`: the vLLM servers take none of the machine's memory.
    """
    try:
        bundle = Bundle.load(settings.bundle, verify=False)
        needs = replace(requirements(bundle), servers=len(wanted_roles(settings, bundle)))
    except BundleError as error:
        return [f"bundle: {error}"]
    except BackendUnavailable as error:
        return [str(error)]
    if vision_alone:
        return [*_heads(settings, needs), *_whole(needs.vision, machine)]
    return [*_heads(settings, needs), *_memory(settings, needs, machine)]


def _heads(settings: Settings, needs: Requirements) -> list[str]:
    size = settings.vllm.tensor_parallel_size
    if size in needs.parallel:
        return []
    fitting = ", ".join(map(str, needs.parallel))
    return [f"vllm.tensor_parallel_size: {size} does not divide the language model's heads; {fitting} do"]


def _memory(settings: Settings, needs: Requirements, machine: Machine) -> list[str]:
    size, share = settings.vllm.tensor_parallel_size, settings.vllm.memory_share
    least, server = needs.least(size), needs.server(size)
    if (faults := _whole(least, machine)) or share is None or server <= share * machine.memory:
        return faults
    told = f"more than {share:g} of {_told(machine)}"
    return [f"vllm.memory_share: a server takes at least {server / GIB:.1f} GiB, {told}"]


def _whole(least: int, machine: Machine) -> list[str]:
    if least <= machine.memory:
        return []
    took = f"it takes at least {least / GIB:.1f} GiB of each device's memory"
    return [f"bundle: {took}, which is {_told(machine)}"]


def _told(machine: Machine) -> str:
    return f"{machine.memory / GIB:.1f} GiB ({machine.name})"
