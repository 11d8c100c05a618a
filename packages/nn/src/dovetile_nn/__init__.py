"""Layers, initialisers, state dicts and safetensors files, with PyTorch's names."""

from __future__ import annotations

from dovetile_nn import init as init
from dovetile_nn.activation import GELU as GELU
from dovetile_nn.activation import Flatten as Flatten
from dovetile_nn.activation import Identity as Identity
from dovetile_nn.activation import ReLU as ReLU
from dovetile_nn.activation import Sigmoid as Sigmoid
from dovetile_nn.activation import SiLU as SiLU
from dovetile_nn.activation import Tanh as Tanh
from dovetile_nn.container import ModuleList as ModuleList
from dovetile_nn.container import Sequential as Sequential
from dovetile_nn.convolution import Conv2d as Conv2d
from dovetile_nn.dropout import Dropout as Dropout
from dovetile_nn.embedding import Embedding as Embedding
from dovetile_nn.files import load_file as load_file
from dovetile_nn.files import load_metadata as load_metadata
from dovetile_nn.files import save_file as save_file
from dovetile_nn.linear import Linear as Linear
from dovetile_nn.module import Module as Module
from dovetile_nn.normalization import BatchNorm1d as BatchNorm1d
from dovetile_nn.normalization import BatchNorm2d as BatchNorm2d
from dovetile_nn.normalization import LayerNorm as LayerNorm
from dovetile_nn.pooling import AvgPool2d as AvgPool2d
from dovetile_nn.pooling import MaxPool2d as MaxPool2d

__version__ = "0.1.0"
