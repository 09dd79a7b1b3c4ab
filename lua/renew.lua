-- renew: the holder's heartbeat. It claims too, when that was not done yet and gate does not start the job.
--
-- Guarantee: extends the lease that is there (XX), never adds one, never shortens what a holder was told, never
-- goes beyond the hard limit, except by grace that stands there. Nothing revives the dead.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 lease_id  string
--   6 lease_ms  integer  '' = what the job was admitted with
-- Replies
--   renewed     (fence, due, hard)
--   lost        not this job's lease, or no longer; nothing was changed
--   by_gate     gate starts this job and has not yet; nothing was changed

begin()
local job = ARGV[4]
local entry, stands = held(job, ARGV[5])
if not entry then return finish('lost', {}) end
if entry.by_gate and not entry.claimed then return finish('by_gate', {}) end -- guard: renewal-claims-not-what-gate-starts
local due = math.min(now + (tonumber(ARGV[6]) or entry.lease_ms), entry.hard) -- guard: renewal-keeps-the-hard-limit
if entry.claimed then due = math.max(entry.due, due) end -- guard: renewal-never-shortens
entry.claimed = true
extend(job, entry, due, stands)
return finish('renewed', {fence = entry.fence, due = entry.due, hard = entry.hard})
