"""A local Google: the APIs that Sentinelle calls, over real sockets."""
