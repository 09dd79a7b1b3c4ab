-- release: give back exactly this lease; the next waiter has the slot before this returns.
--
-- Guarantee: a stale lease never frees the slot of its successor. Runs after SQL has the outcome.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 lease_id  string
-- Replies
--   released    the slot is free, or the next waiter's already
--   stale       that lease holds no slot; nothing was changed

begin()
local job = ARGV[4]
local entry = held(job, ARGV[5])
if not entry then return finish('stale', {}) end
vacate(job)
forget(job, entry)
warm_up()
return finish('released', {})
