"""From a graph of tensors to kernels that have run.

realization   normalise the graph, find its plan or make it, run it
simplify      rewrites of the tensor graph
place         what to hold in memory, what to recompute
ranges        loop indices instead of shapes
kernels       kernels, joined where they share loops
dependencies  which kernel must run before which
loops         loops made canonical
memory        temporaries that live at different times share memory
plan, run     the result as data, and how it is executed
explain       all of these stages printed
"""

from __future__ import annotations

from dovetile.schedule.realization import buffer_of as buffer_of
from dovetile.schedule.realization import count_run as count_run
from dovetile.schedule.realization import is_realized as is_realized
from dovetile.schedule.realization import memory_of as memory_of
from dovetile.schedule.realization import pending_readers as pending_readers
from dovetile.schedule.realization import realize as realize
from dovetile.schedule.realization import runs as runs
from dovetile.schedule.realization import whole_memory as whole_memory
from dovetile.schedule.run import recording as recording
