"""The TensorFlow tutorial's graph compiled by XLA, as the post tried it: one argument differs."""

from .tensorflow_cell import Stack, builders

build, build_learner = builders(Stack, jit_compile=True)
