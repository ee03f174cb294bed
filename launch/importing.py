"""Heavy imports, with garbage collection switched off."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Within it modules are imported without garbage collection.

    Importing torch makes millions of objects that all stay; looking through them again and again takes a sixth of the time.
    They are left out of later collections too, which makes those of training shorter.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
