"""The engine: takes each job from the state that its history left it in, to an end.

The promises
------------
Three promises decide every question, in this order. The engine never pays twice for a clip.
It never loses a clip that was paid for. It uses all of the quota that is paid for.

The life of a job
-----------------
`manifests.lifecycle` has the states, the events, and which event may follow which. The
ledger stores events, and a job's state is computed from them. `job` repeats one loop: read
the history, do the one thing that the state calls for, record what happened, read again.

    pending     check the still, hand it over, wait for a slot, submit once
    in doubt    ask the provider, if it can be asked; else wait for the owner
    accepted    poll the provider until the job ends, or until the deadline
    generated   download, check and publish the clip

`job` yields events, and resumes only once each event is durable. So the order of its lines
is the write-ahead rule: `Intended` before the request, the ticket before the first poll,
`Generated` before the download. A crash falls between two entries of the ledger, and the
next run continues from there.

The modules
-----------
`engine` runs the workers and stops, pauses or winds them down. `reserve` collects what one
submit needs: a still at the provider (`still_handover`), a slot on a lane, and the reserved
price. `submit` sends the request once and applies the answer to the job and the lane. `poll`
follows accepted jobs, and `download` publishes clips. `stats` and `lane_costs` count.

When a clip is good
-------------------
`download` publishes a clip only if the file is complete and `storage.media.mp4` accepts it
(`clip_check`). It tries up to six times in one run. A complete file that is identical three
times and does not play is the provider's fault, and the attempt is discarded.

Doubts, losses and faults
-------------------------
`in_doubt` settles a job without a recorded answer. It believes only a certain answer of the
provider, and risks only the money that the owner allows. `steps` has the free steps of a
job that a provider accepted. They decide what a missing clip means: `Discarded` if it was
paid for, and `Forgotten` on own GPUs. `job` takes them for the jobs of a batch. `recover`
takes them for the clips that earlier batches left at providers, and cannot submit.
`past_tables` tells their sidecars what was asked for. `own_faults` parks jobs on which our own code fails, and
closes lanes after three in a row.
"""
