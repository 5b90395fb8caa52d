"""Training: the steps of an epoch and what they need."""
