"""The protocol as a model: two stores, the paths of gate between them, and everything that may happen at their borders.

`python -m tests.proof.model` looks at every state that can be reached in a few small worlds, and says that what must hold holds
(rules.py); then it takes out one safeguard after the other (safeguards.py) and tells the shortest story that goes wrong.

What stands where: state.py what is remembered, scripts.py Redis, rows.py SQL, steps.py, running.py, keeping.py and paths.py the
paths, calls.py how one of them stands still, world.py what happens next, search.py the search, numbers.py what keeps it finite.

The provider is the third truth: tasks.py and task_rows.py what SQL knows of its tasks, provider.py what it does, asking.py the paths
to it, provider_world.py what happens there, third_truth.py the safeguards. A question is answered before the deadline that it is
asked for, unless a process stands still. gate extends the lease before it asks, because an answer takes time; here it takes none,
and the answer extends the lease. Which worker asks is left open: any server may ask about any task, at once and twice, so that
taking turns is a matter of cost and not of safety. Each failure is one that its tool has tried again, if it has any. Where callbacks are
hints, gate asks only near a deadline and after a hint, so that a hint that is lost shows as a job that waits for a deadline.

Not here: success without output that is said twice, the intervals of questions, callbacks that confirm a stop, the cap per
user, queue_max, batches and bounds of a hundred, settings other than limit and pause, entries torn from their members, the
grace after an absence, group commit, what readers see, the terminal, two ledgers on one Redis. Time is of each job by itself.
An operator's hand is looked at alone, not together with a process that stops: put back by the sweep, a lease has the deadline
of SQL, and a renewal that stood still meanwhile may tell a later one, which Redis does not have. Three faults at once are not
looked at either: undo may then free a grant that a sweep has adopted, and the next sweep puts it back.
"""
