"""One algorithm a file.

May import the ground files, `config.field` and `rl`; none knows another, or the loop.
"""
