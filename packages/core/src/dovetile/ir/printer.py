"""Nodes and graphs as text."""
from __future__ import annotations
from dovetile.ir.uop import UOp


def format_node(node: UOp) -> str:
    return f"{node.op.name} {node.dtype} {node.arg}"
