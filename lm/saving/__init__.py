"""What outlives a process: checkpoints, the state to go on from, curves, and whole files."""
