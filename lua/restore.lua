-- restore: a lease that SQL has and Redis lost is put back as it was.
--
-- Guarantee: the same lease, fence and deadline, never more slots than the limit, never beside another grant of the job,
-- never what the outbox is about to end.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 entry     JSON    as in jobs, with lease_id, fence, claimed, granted_at, due, hard
-- Replies
--   restored    it holds its slot again
--   known       it holds a slot, or its end stands in the outbox; nothing was changed
--   full        no slot is free at the moment; nothing was changed

begin()
local job, entry = ARGV[4], cjson.decode(ARGV[5])
local member = redis.call('ZSCORE', SLOTS, job)
if (member and read(job))
   or noted(job) -- guard: restore-nothing-ended
then return finish('known', {}) end
if not member and in_use >= meta.limit then return finish('full', {}) end -- guard: restore-within-the-limit
unqueue(job)
occupy(job, entry.due)
admit(job, entry)
return finish('restored', {})
