"""The edge: what Ray Serve's own HAProxy is taught, so that it answers the hottest requests itself.

How it is put together, in the order in which one may read it:

- `rules`: what the proxy does with a request, as lines of its configuration.
- `amend`: those lines, put into the configuration that Serve writes.
- `launcher`: the executable that Serve starts in HAProxy's place, and that becomes HAProxy.
- `key`, `value`: the key of a request and the value of an answer, as the rules make and read them.
- `admin_socket`: adding, removing and counting entries while the proxy runs.
- `scout`: in each ingress, what is asked again and again; `protocol`: how the feeder is told.
- `shelf`: which answers are at the edge; `feeder`: how they get there, and when they leave.

Two things make it safe. An entry's key covers everything that an answer may depend on, so that
whatever isn't known byte for byte goes on to the ingress. And all entries count only under a lease,
which the feeder renews while the cache's authority vouches for the catalogue: who can't be told of
a change falls silent by itself.
"""
