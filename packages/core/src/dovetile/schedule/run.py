"""Running a plan: memory for what it makes, commands on the queues of its devices."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from dovetile import profiling
from dovetile.runtime import Buffer, Device, Program
from dovetile.runtime.compile import load_programs
from dovetile.runtime.counting import Counters, total
from dovetile.runtime.faults import check_faults, fault_buffer, register_faults
from dovetile.schedule import debug
from dovetile.schedule.plan import Plan, Reference

if TYPE_CHECKING:
    from dovetile.capture.recording import Recording
    from dovetile.profiling import Profile

recording: ContextVar[Recording | None] = ContextVar("recording", default=None)
"""Notes what is run, for a captured function. It holds for one thread."""


class Command(NamedTuple):
    """A step of a plan, ready to be queued. places: of its buffers in the memory of a run."""

    device: Device
    program: Program | None
    places: list[int]
    groups: tuple[int, ...]
    local: tuple[int, ...]
    early: bool

    def queue(self, memory: Sequence[Buffer]) -> None:
        """Puts it into its device's queue."""
        buffers = [memory[place] for place in self.places]
        if self.program is None:
            copy(*buffers)
        else:
            self.device.queue.launch(self.program, buffers, (), self.groups, self.local)


class LoadedPlan:
    """A plan with its programs on their devices.

    The memory of a run is one list of buffers: results, temporaries, fault words, inputs. work is
    what one run counts for.
    """

    def __init__(
        self, plan: Plan, devices: Mapping[str, Device], programs: Sequence[Program]
    ) -> None:
        self.plan = plan
        self.devices = devices
        used = list(dict.fromkeys(step.device for step in plan.steps))
        reporting = [
            name
            for name in used
            if any(r.kind == "fault" for s in plan.steps if s.device == name for r in s.memory)
        ]
        self._submits = [devices[name].queue.submit for name in used]
        self._results = [(devices[r.device], r.nbytes, r.dtype) for r in plan.results]
        # Made now: later, its first zero would wait for everything queued by then.
        self._faults = [fault_buffer(devices[name]) for name in reporting]
        first = {"result": 0, "temporary": len(plan.results)}
        first_fault = first["temporary"] + len(plan.temporaries)
        first["input"] = first_fault + len(reporting)

        def place(device: str, reference: Reference) -> int:
            if reference.kind == "fault":
                return first_fault + reporting.index(device)
            return first[reference.kind] + reference.number

        self.commands = [
            Command(
                devices[step.device],
                None if step.program is None else programs[step.program],
                [place(step.device, reference) for reference in step.memory],
                (step.parts,),
                (step.threads,),
                step.early,
            )
            for step in plan.steps
        ]
        launches = [s for s in plan.steps if s.program is not None and s.parts > 0]
        self.work = Counters(
            len(launches), sum(s.operations for s in launches), sum(s.nbytes for s in launches)
        )

    def run(self, inputs: Sequence[Buffer]) -> list[Buffer]:
        """Queues all steps; returns the buffers of the results. Does not wait."""
        plan = self.plan
        results = [Buffer.allocated(*kind) for kind in self._results]
        temporaries = self._temporaries() if plan.temporaries else ()
        memory = [*results, *temporaries, *self._faults, *inputs]
        if plan.faults:
            register_faults(plan.faults)
        total.add(self.work)
        if (record := recording.get()) is not None:
            record.add_plan(self, memory, results)
        profile = profiling.current()
        if profile is not None or debug.level() >= 2:
            with profiling.stage("launch"):
                self._run_timed(memory, profile)
            return results
        for command in self.commands:
            command.queue(memory)
        for submit in self._submits:
            submit()
        return results

    def _temporaries(self) -> list[Buffer]:
        plan = self.plan
        arenas = {name: Buffer(self.devices[name], nbytes) for name, nbytes in plan.arenas.items()}
        return [arenas[t.device].view(t.offset, t.nbytes, t.dtype) for t in plan.temporaries]

    def _run_timed(self, memory: Sequence[Buffer], profile: Profile | None) -> None:
        """Runs step by step, each awaited and reported."""
        for step, command in zip(self.plan.steps, self.commands):
            command.device.wait()
            start = time.perf_counter()
            command.queue(memory)
            command.device.wait()
            seconds = time.perf_counter() - start
            name = "copy" if step.program is None else self.plan.programs[step.program][1]
            if debug.level() >= 2:
                debug.step(step, name, seconds)
            if profile is not None:
                profile.plan_kernel(name, step.label, step.operations, step.nbytes)
                profile.add_launch(name, seconds)


def copy(destination: Buffer, source: Buffer) -> None:
    """Copies between devices: by a command where one reaches the other, else through the host."""
    device, other = destination.device, source.device
    if device is other:
        device.queue.copy(destination, source)
    # Reports of bad indices are looked for by whoever waits for the device that they are on.
    elif other.fault_word is None and device.reaches(other) and other.reaches(device):
        _follow(device, other)
        device.queue.copy(destination, source)
        _follow(other, device)
    else:
        destination.copy_in(source.to_numpy())
        # Whoever reads the copy waits for its device only.
        check_faults(source.device)


def _follow(device: Device, other: Device) -> None:
    """What `device` is told from now on waits for what `other` was told so far."""
    signal = other.new_signal()
    other.queue.signal(signal, 1)
    other.queue.submit()
    device.queue.wait(signal, 1)
    device.queue.retire(signal)  # it must outlive the wait


def load_plan(plan: Plan, devices: Mapping[str, Device]) -> LoadedPlan | None:
    """The plan with programs from the kernel cache; None where one is missing there."""
    if not {d for d, _, _ in plan.programs} <= devices.keys():
        return None
    programs = load_programs([(devices[d], name, key) for d, name, key in plan.programs])
    return None if programs is None else LoadedPlan(plan, devices, programs)
