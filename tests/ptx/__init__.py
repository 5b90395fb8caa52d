"""A PTX machine: runs what Triton compiles for a GPU, on a CPU, all programs of a launch at once.

    PYTHONPATH=.. python -m ptx --help   # in tests/; `make ptx` runs every case

Triton's interpreter shows that a kernel computes the right numbers, one program after another. Here
the compiled code runs: instructions of all warps interleave by a seeded schedule, L1 keeps old
lines, stores become visible late, asynchronous copies and products end when they like. What it
finds: races (vector clocks), deadlocks, reads of what nobody wrote, addresses outside of tensors.

| file | what |
|---|---|
| `machine/` | the machine, in C++; `instructions.cpp` is the table of instructions |
| `build.py`, `binding.py` | compile it, call it |
| `instructions.py`, `parser.py` | PTX text to what it executes |
| `memory.py`, `device.py` | the tensors of this process as global memory; a driver for Triton |
| `run.py` | one launch under one schedule, and what was found |
| `by_hand.py` | kernels of a few instructions, for the tests of the machine itself |
| `cases.py`, `lists.py` | the project's kernels: one of them at one shape; all that run |
| `faults.py` | the same with faults put into their PTX |
| `fpsan.py` | two plans of a case, whose bits must agree under Triton's FpSan |
| `pool.py` | processes in which Triton compiles, for tests whose own process interprets |

What it cannot see: ptxas (it runs PTX, not SASS), races among lanes of one warp, TMA, mbarrier,
clusters, tcgen05 (sm_100). Tensor cores sum in double and round once; ex2, division and roots are
the host's.
"""
