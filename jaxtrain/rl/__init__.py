"""What algorithms are made of: networks, distributions, returns, normalizers, minibatches.

May import the ground files. Knows nothing of algorithms, environments or the loop.
"""
