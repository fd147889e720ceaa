"""The answer cache: keys, policy, entries, the store, and the tiers that serve from it.

What one request meets, in order:

1. `recognise.raw_key` names the request's bytes; `near.Near` answers what it has seen before.
2. `policy.gate` says whether this request may be answered from memory at all.
3. `key.request_key` names what the request means; `joining.Joining` asks the shard that has it,
   once for all that ask the same: an entry, or a seat in the `flights.Flights` that will bring it.
4. `policy.unworthy` looks at what the engine said; `entry.Entry` holds it; the shard keeps it.

`service.AnswerCache` does these for the ingress; `shard.ShardServer` is what a cache actor runs;
`catalogue` is how both know which content a model's name stands for right now.
Plain Python: no clock but those handed in, no network but the shards' own small protocol.
"""
