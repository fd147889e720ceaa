"""Admission and routing: which replica of a pool gets which request, and who waits.

`schedule.Schedule` decides, without sockets or a clock. Its parts are the waiting line (`line`),
the replicas as they are known (`replica`), and the choice (`placement`). Around it is a thin
shell: `desk.Desk` serves it on a socket, `asking.Asking` takes leases from it for an ingress, and
`telling.Telling` says how a replica is; both keep their connections with `link.Kept`.
"""
