"""Loads Keras without what TensorFlow's logger writes to stderr meanwhile, which no setting of its own keeps back."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_stderr, _nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_nothing, 2)
try:
    import keras as keras
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nothing)
