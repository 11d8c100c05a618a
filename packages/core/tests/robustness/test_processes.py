"""Threads, forks and Ctrl-C."""

from __future__ import annotations

import os

import pytest

from dovetile.runtime import get_device

THREADS = """
import faulthandler, threading
import numpy as np
import dovetile
from dovetile import Tensor

faulthandler.dump_traceback_later(240, exit=True)
drawn, errors = [], []

def work(number):
    try:
        random = np.random.default_rng(number)
        for round in range(5):
            x = random.standard_normal((17 + number, 9)).astype(np.float32)
            t = Tensor(x)
            total = (t @ t.mT).softmax(-1).sum().item()
            np.testing.assert_allclose(total, 17 + number, rtol=1e-4)
            expected = (np.exp(x) + round).sum(0)
            np.testing.assert_allclose((t.exp() + round).sum(0).numpy(), expected, rtol=1e-4)
            w = Tensor(x, requires_grad=True)
            (w * w).sum().backward()
            np.testing.assert_allclose(w.grad.numpy(), 2 * x, rtol=1e-5)
            u = Tensor(x)
            for step in range(3):
                u[step : step + 2] = float(step)
                x[step : step + 2] = step
            np.testing.assert_array_equal(u.numpy(), x)
            drawn.append(Tensor.rand(32).numpy())
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if errors: raise errors[0]
# Who drew what depends on the threads; what was drawn does not.
found = np.sort(np.concatenate(drawn))
dovetile.manual_seed(0)
np.testing.assert_array_equal(found, np.sort(Tensor.rand(40 * 32).numpy()))
print("done")
"""


def test_threads_compute_at_once(python):
    result = python(THREADS)
    assert result.stdout == "done\n", result.stderr


FORK = """
import faulthandler, multiprocessing, os, signal, sys
import numpy as np
from dovetile import Tensor
from dovetile.errors import DeviceError

x = Tensor(np.full((200, 200), 0.5, np.float32))
y = (x @ x).realize()

def work(i):
    return (y + i).sum().item() + (x @ y).amax().item()

faulthandler.dump_traceback_later(200, exit=True)
child = os.fork()
if not child:
    signal.alarm(100)
    try:
        os._exit(0 if work(1) == 200 * 200 * 51 + 5000 else 1)
    except DeviceError as error:
        os._exit(77 if str(error).startswith("[fork]") else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert work(1) == 200 * 200 * 51 + 5000
if status == 77:
    print("refused")
    sys.exit()
assert status == 0
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(work, range(4)).get(timeout=100)[1] == 200 * 200 * 51 + 5000
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_too(python):
    """Or is told that it cannot, where its parent's memory is on another device than the host."""
    result = python(FORK)
    refusing = "" if get_device().capabilities.host_visible else "refused\n"
    assert result.stdout in ("done\n", refusing) and result.stdout, result.stderr


INTERRUPT = """
import os, signal, threading, time
import numpy as np
from dovetile import Tensor

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
x = Tensor(np.full((1000, 1000), 0.001, np.float32))
y = (x @ x).realize()
y.numpy()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    for _ in range(80):
        y = (y @ x).realize()
    for _ in range(80):
        y.numpy()
        y = (y @ x).realize()
    print("too fast")
except KeyboardInterrupt:
    assert time.monotonic() - start < 2
print((x * 1000).sum().item())
"""
WHILE_COMPILING = """
import os, signal, threading
import numpy as np
from dovetile import Tensor

def work(n):
    x = np.arange(7 * n, dtype=np.float32).reshape(n, 7) / n
    t = Tensor(x)
    e = np.exp(x)
    expected = (e / e.sum(-1, keepdims=True)).sum(0) + n
    np.testing.assert_allclose((t.softmax(-1).sum(0) + n).numpy(), expected, rtol=1e-4)

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
work(3)
for number in range(6):
    timer = threading.Timer(0.03 * (number + 1), os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        for n in range(100):
            work(10 + 100 * number + n)
    except KeyboardInterrupt:
        pass
    timer.join()
    work(11 + 100 * number)
print("done")
"""


def test_ctrl_c_stops_the_wait_and_the_device_works_on(python):
    result = python(INTERRUPT)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(1e6, rel=1e-4)


def test_ctrl_c_at_any_moment_of_scheduling_and_compiling(python):
    result = python(WHILE_COMPILING)
    assert result.stdout == "done\n", result.stderr
