#!/bin/sh
# Kubernetes is about to end this pod: let Ray move what runs here, and streams finish. drain.sh 1800
#
# Serve starts replacements elsewhere, and the raylet ends, and the pod with it, once all is gone.
# Where the control plane is gone already, there is nothing to wait for.
timeout 30 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod is being deleted" --deadline-remaining-seconds "$1" || exit 0
exec sleep "$1"
