"""What pages share: state, jobs, figures, widgets."""

import rcpu  # noqa: F401 - before torch, so that its thread settings hold
