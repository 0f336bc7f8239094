"""One process tests one backend, that of `KERAS_BACKEND`; an unknown or absent one is an error, never a skip."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# On small tensors PyTorch's threads wait for each other more than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What JAX has compiled once it need not compile again: a second run takes a third of the time.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", f"jax-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# XLA's optimizations cost the tests more than they gain.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if os.environ["KERAS_BACKEND"] not in ("tensorflow", "jax", "torch"):
    raise ValueError(f"KERAS_BACKEND must be tensorflow, jax or torch. Received: {os.environ['KERAS_BACKEND']!r}")

import keras
import pytest
from hypothesis import HealthCheck, settings

# Examples and notebooks run on the backend of which they show results; what they call is tested on each.
if keras.backend.backend() != "tensorflow":
    collect_ignore_glob = ["test_*_example.py", "test_notebooks.py", "test_tuner.py"]

# The first call of a shape compiles: a time limit would say nothing about the law.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# On an accelerator too the oracles are compared with products in full precision, and what tests make lies where Keras puts it.
if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
elif keras.backend.backend() == "torch":
    import torch

    torch.set_float32_matmul_precision("highest")
    if torch.cuda.is_available():
        torch.set_default_device("cuda")


def pytest_report_header():
    return f"keras {keras.__version__} on {keras.backend.backend()}"


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(0)
