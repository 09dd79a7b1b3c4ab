-- cancel: a job that has ended in SQL leaves, from wherever it stands.
--
-- Guarantee: nothing of the job stays in slots, queue, jobs or users. A job_id is never used for a second job, so
-- no lease needs to be named.
--
-- ARGV after the prelude's
--   4 job_id     string
-- Replies
--   left_slot    it held a slot
--   left_queue   it waited
--   absent       it was not there

begin()
local job = ARGV[4]
local held_slot = redis.call('ZREM', SLOTS, job) == 1
local waited = not held_slot and redis.call('LREM', QUEUE, 1, job) == 1
forget(job, read(job))
if held_slot then warm_up() return finish('left_slot', {}) end
return finish(waited and 'left_queue' or 'absent', {})
