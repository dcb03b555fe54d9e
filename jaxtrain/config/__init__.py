"""What a run is: fields that check themselves, the tree of them, YAML, and the one table of names.

May import the ground files; `registry` finds all else by name, when a config asks for it.
"""
