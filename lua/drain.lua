-- drain: the job of a lease has ended, and its task still runs at the provider: the slot stays until the task is over.
--
-- Guarantee: only this lease; no later deadline than drain_ms from now, nor than the lease had. From now on no holder can renew it,
-- it counts for no user, and its deadline frees the slot without a word to SQL, which has the end already.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 lease_id  string
--   6 drain_ms  integer  how long the slot stays at most; `release` of lease `drain:LEASE_ID` frees it sooner
-- Replies
--   drains      the slot is kept (due)
--   stale       that lease holds no slot; nothing was changed

begin()
local job = ARGV[4]
local entry, stands = held(job, ARGV[5])
if not entry then return finish('stale', {}) end
if entry.user then redis.call('ZREM', USERS, entry.user .. '\31' .. job) end
entry.user = nil
entry.drains = true
entry.lease_id = 'drain:' .. entry.lease_id -- guard: draining-slot-has-its-own-lease
entry.due = math.min(now + tonumber(ARGV[6]), stands) -- guard: drain-for-a-time
redis.call('ZADD', SLOTS, 'XX', digits(entry.due), job)
write(job, entry)
return finish('drains', {due = entry.due})
