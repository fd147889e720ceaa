"""Admission and routing: which replica of a pool gets which request, and who waits.

`schedule.Schedule` decides, without sockets or a clock. Its parts are the waiting line (`line`), the
replicas as they are known (`replica`), and the choice among them (`placement`).
"""
