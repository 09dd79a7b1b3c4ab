-- cancel: a job that has ended in SQL leaves, from wherever it stands.
--
-- Guarantee: nothing of the job stays in slots, queue, jobs or users. A job_id is never used for a second job, so
-- no lease needs to be named. One that never was in SQL may come again, though: then only the place is meant that its
-- ticket gave it, and never a slot.
--
-- ARGV after the prelude's
--   4 job_id     string
--   5 ticket     integer  of the place that is meant; '' = wherever it stands
-- Replies
--   left_slot    it held a slot
--   left_queue   it waited
--   absent       it was not there, or its slot drains

begin()
local job, ticket = ARGV[4], ARGV[5]
local entry = read(job)
-- guard: stranger-leaves-by-ticket
if ticket ~= '' and (entry and entry.ticket ~= ticket or redis.call('ZSCORE', SLOTS, job)) then return finish('absent', {}) end
if entry and entry.drains then return finish('absent', {}) end -- guard: cancel-leaves-a-draining-slot
local held_slot = vacate(job)
local waited = not held_slot and unqueue(job, entry)
forget(job, entry)
if held_slot then warm_up() return finish('left_slot', {}) end
return finish(waited and 'left_queue' or 'absent', {})
