"""Running a plan: memory for what it makes, commands on the queues of its devices."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetile import profiling
from dovetile.runtime import Buffer, Device, Program
from dovetile.runtime.compile import load_programs
from dovetile.runtime.counting import Counters, total
from dovetile.runtime.faults import check_faults, fault_buffer, register_faults
from dovetile.schedule import debug
from dovetile.schedule.plan import Plan, Step

if TYPE_CHECKING:
    from dovetile.capture.recording import Recording
    from dovetile.profiling import Profile

recording: ContextVar[Recording | None] = ContextVar("recording", default=None)
"""Notes what is run, for a captured function. It holds for one thread."""


@dataclass
class LoadedPlan:
    """A plan with its programs on their devices."""

    plan: Plan
    devices: Mapping[str, Device]
    programs: Sequence[Program]

    def __post_init__(self) -> None:
        # Made now: later, its first zero would wait for everything queued by then.
        for step in self.plan.steps:
            if any(r.kind == "fault" for r in step.memory):
                fault_buffer(self.devices[step.device])

    @functools.cached_property
    def _used(self) -> list[Device]:
        """The devices that have something to do."""
        return [self.devices[name] for name in {step.device: None for step in self.plan.steps}]

    @functools.cached_property
    def work(self) -> Counters:
        """What one run counts for."""
        launches = [s for s in self.plan.steps if s.program is not None and s.parts > 0]
        return Counters(
            len(launches), sum(s.operations for s in launches), sum(s.nbytes for s in launches)
        )

    def run(self, inputs: Sequence[Buffer]) -> list[Buffer]:
        """Queues all steps; returns the buffers of the results. Does not wait."""
        memory, results = self.allocate(inputs)
        if self.plan.faults:
            register_faults(self.plan.faults)
        total.add(self.work)
        if (record := recording.get()) is not None:
            record.add_plan(self, memory)
        profile = profiling.current()
        if profile is not None or debug.level() >= 2:
            self._run_timed(memory, profile)
            return results
        for step in self.plan.steps:
            self.queue(step, memory)
        for device in self._used:
            device.queue.submit()
        return results

    def _run_timed(self, memory: Mapping[str, Sequence[Buffer]], profile: Profile | None) -> None:
        """Runs step by step, each awaited and reported."""
        for step in self.plan.steps:
            device = self.devices[step.device]
            device.wait()
            start = time.perf_counter()
            self.queue(step, memory)
            device.wait()
            seconds = time.perf_counter() - start
            name = "copy" if step.program is None else self.plan.programs[step.program][1]
            if debug.level() >= 2:
                debug.step(step, name, seconds)
            if profile is not None:
                profile.plan_kernel(name, step.label, step.operations, step.nbytes)
                profile.add_launch(name, seconds)

    def allocate(
        self, inputs: Sequence[Buffer]
    ) -> tuple[dict[str, Sequence[Buffer]], list[Buffer]]:
        """(the buffers by kind of reference, the results)."""
        plan = self.plan
        arenas = {name: Buffer(self.devices[name], nbytes) for name, nbytes in plan.arenas.items()}
        temporaries = [arenas[t.device].view(t.offset, t.nbytes, t.dtype) for t in plan.temporaries]
        results = [Buffer(self.devices[r.device], r.nbytes, r.dtype) for r in plan.results]
        return {"input": inputs, "temporary": temporaries, "result": results}, results

    def buffers_of(self, step: Step, memory: Mapping[str, Sequence[Buffer]]) -> list[Buffer]:
        """The buffers of a step in slot order."""
        return [
            fault_buffer(self.devices[step.device])
            if r.kind == "fault"
            else memory[r.kind][r.number]
            for r in step.memory
        ]

    def queue(self, step: Step, memory: Mapping[str, Sequence[Buffer]]) -> None:
        """Records one step on its device's queue."""
        device = self.devices[step.device]
        buffers = self.buffers_of(step, memory)
        if step.program is None:
            copy(buffers[0], buffers[1])
        else:
            device.queue.launch(self.programs[step.program], buffers, (), (step.parts,))


def copy(destination: Buffer, source: Buffer) -> None:
    """Copies between devices: on the device where it can, else through host memory."""
    if destination.device is source.device:
        destination.device.queue.copy(destination, source)
    else:
        destination.copy_in(source.to_numpy())
        # Whoever reads the copy waits for its device only.
        check_faults(source.device)


def load_plan(plan: Plan, devices: Mapping[str, Device]) -> LoadedPlan | None:
    """The plan with programs from the kernel cache; None where one is missing there."""
    if not {d for d, _, _ in plan.programs} <= devices.keys():
        return None
    programs = load_programs([(devices[d], name, key) for d, name, key in plan.programs])
    return None if programs is None else LoadedPlan(plan, devices, programs)
