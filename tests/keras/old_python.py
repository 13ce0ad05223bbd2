"""Small patches with which Keras 1.2 to 2.3, Theano-PyMC and TensorFlow 1's interface run in Python 3.11.

The files under `files/` were written by old libraries in a virtual environment of Python 3.11:

    pip install "setuptools<60" numpy==1.23.5 scipy==1.9.3 h5py==3.8.0 six pyyaml theano-pymc==1.1.2
    pip install --no-deps keras==2.1.6                                # or 1.2.2, 2.0.9, 2.2.5, 2.3.1
    pip install --no-deps keras_applications==1.0.8 keras_preprocessing==1.1.2
    KERAS_BACKEND=theano THEANO_FLAGS=floatX=float32,optimizer=fast_compile,blas__ldflags= python write_fixtures.py

and on TensorFlow, with tensorflow-cpu==2.12.0 in place of theano-pymc and `import tensorflow as tf` written as
`import tensorflow.compat.v1 as tf` in keras/backend/*.py, which is what TensorFlow 1 was:

    KERAS_BACKEND=tensorflow python write_fixtures.py
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import inspect
import os
from typing import Any


def load(name: str) -> tuple[Any, str, str]:
    """Return a library, its version, and its backend."""
    if name == "tf.keras":
        tensorflow: Any = importlib.import_module("tensorflow")
        return tensorflow.keras, str(tensorflow.__version__), "tensorflow"
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend:
        _patch_python()
        (_patch_theano if backend == "theano" else _patch_tensorflow)()
    library: Any = importlib.import_module(name)
    importlib.import_module(f"{name}.models")
    importlib.import_module(f"{name}.layers")
    return library, str(library.__version__), library.backend.backend()


def _patch_python() -> None:
    """Restore names that the standard library had until Python 3.10."""
    if not hasattr(inspect, "getargspec"):
        module: Any = inspect
        module.getargspec = inspect.getfullargspec
    for name in ("Iterable", "Mapping", "Callable", "Sequence"):
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))


def _patch_theano() -> None:
    """Restore the old name of Theano-PyMC's random streams."""
    importlib.import_module("theano.ifelse")
    random: Any = importlib.import_module("theano.sandbox.rng_mrg")
    if not hasattr(random, "MRG_RandomStreams"):
        random.MRG_RandomStreams = random.MRG_RandomStream


def _patch_tensorflow() -> None:
    """Make TensorFlow 2 behave as TensorFlow 1, and restore two of its functions."""
    importlib.import_module("tensorflow.compat.v1").disable_v2_behavior()
    ops: Any = importlib.import_module("tensorflow.python.framework.ops")
    variables: Any = importlib.import_module("tensorflow.python.ops.variables")
    if not hasattr(ops, "_TensorLike"):
        ops._TensorLike = ops.Tensor
        ops.is_dense_tensor_like = lambda value: isinstance(value, (ops.Tensor, variables.Variable))
