"""What pages share: state, jobs, figures, widgets."""
