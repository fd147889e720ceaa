"""How Serve's handle delivers a call to the replica that its lease names.

The name travels as the call's `multiplexed_model_id`, the one field of a handle's options that a
router sees. Serve's routers find a replica for one waiting call and then give it to any other that
waits; here it is given to the call that it was found for.

Serve makes its own copy of this module, so what it shares with the process is in another one.
"""

import random
from typing import Any

from ray.serve.request_router import (
    FIFOMixin,
    MultiplexMixin,
    PendingRequest,
    RequestRouter,
    RunningReplica,
)

from serve.fleet import roster


class LeaseRouter(FIFOMixin, MultiplexMixin, RequestRouter):
    """To the replica named; to one of any two, where none is named or it has gone."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's: these run now."""
        super().update_replicas(replicas)
        nodes = {each.replica_id.unique_id: str(each.node_id) for each in replicas}
        roster.publish(self._deployment_id.name, nodes)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Serve's: where this call may go, the best first."""
        if pending_request is not None:
            name = pending_request.metadata.multiplexed_model_id
            named = [each for each in candidate_replicas if each.replica_id.unique_id == name]
            if named:
                return [named]
        some = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        return [some] if some else []

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: Any = None
    ) -> None:
        """Serve's: give the replica to the call that it was chosen for, and to no other.

        By the identity of its metadata: their ids are the same for all calls that one request
        makes. Serve asks again until that call has a replica or is cancelled.
        """
        for each in self._pending_requests_to_fulfill:
            if each.metadata is request_metadata and not each.future.done():
                self._cancel_routing_task_for_pending_request(each)
                self._record_queue_wait_time(each)
                each.future.set_result(replica)
                self._remove_pending_request_from_indices(each)
                return
