"""Raises an ImportError that says what to install if JAX is older than the oldest supported one.

pip has the same bound; this is for a JAX that was installed in spite of it.
"""

import jax

OLDEST = "0.8.3"

if jax.__version_info__ < tuple(map(int, OLDEST.split("."))):
    raise ImportError(
        f"jax_rnnt needs JAX {OLDEST} or newer, and this is JAX {jax.__version__}: "
        f"pip install 'jax>={OLDEST}'."
    )
