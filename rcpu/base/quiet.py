"""Progress bars and advice of other libraries stay out of our output; their errors do not."""

from __future__ import annotations

import contextlib
import warnings

from transformers.utils import logging


@contextlib.contextmanager
def quiet_transformers():
    """Silence transformers' logger and bars inside the block, and restore both after."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
