"""An ImportError that says what to install where JAX is older than the oldest one supported.

pip sees to it otherwise; this is for what was installed past it.
"""

import jax

OLDEST = "0.8.3"

if jax.__version_info__ < tuple(map(int, OLDEST.split("."))):
    raise ImportError(
        f"jax_rnnt needs JAX {OLDEST} or newer, and this is JAX {jax.__version__}: "
        f"pip install 'jax>={OLDEST}'."
    )
