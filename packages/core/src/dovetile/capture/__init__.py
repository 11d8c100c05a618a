"""Captured functions: run once, record what ran, replay it without Python between the kernels.

decorator     `jit`: which capture fits a call, and when a new one is needed
arguments     trees of arguments and results: what is a tensor, what is part of the key
surroundings  the Python values that a function sees, and whether they have changed
recording     what a function makes the devices do, while it runs
lists         recorded commands as command lists of the devices' queues
step          one captured step: what must hold for a replay, and the replay
build         makes a step of a recording
"""

from __future__ import annotations

from dovetile.capture.decorator import jit as jit
