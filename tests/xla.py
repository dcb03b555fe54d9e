"""Flags under which XLA compiles tiny programs fast.

In: the version of jaxlib. Out: text for `XLA_FLAGS`; jaxlib ends the process at a flag that it does not know.
"""

from __future__ import annotations

from importlib.metadata import version

# What compiles is tiny and is compiled again in every process: older code generators are twice as fast.
FAST = "--xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    FAST += " --xla_cpu_use_fusion_emitters=false"
