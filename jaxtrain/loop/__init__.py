"""The loop over updates and events, of one seed or of many, as one compiled program.

May import all but `runs` and `tools`; algorithms only by the registry.
"""
