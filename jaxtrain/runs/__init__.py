"""A run in a directory: checkpoints, resume, signals, and what is read from one afterwards.

May import all but `tools`. What is read from a directory is data: nothing in it is executed.
"""
