"""One stock event a file, on the base of `event`.

May import the ground files, `config` and `rl`. Knows a trainer by what it offers,
not the loop.
"""
