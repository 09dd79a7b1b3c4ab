-- hold: gate's own start call for a grant is under way; its claim time does not run meanwhile.
--
-- Guarantee: extends the grant that is there (XX), never adds one, never shortens it, never goes beyond the hard limit. It claims
-- nothing.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 lease_id  string
-- Replies
--   held        (fence, due, hard)
--   lost        not this job's lease, or no longer; nothing was changed

begin()
local job = ARGV[4]
local entry, stands = held(job, ARGV[5])
if not entry then return finish('lost', {}) end
if not entry.claimed then
  local due = entry.due
  due = math.max(due, math.min(now + meta.claim_ms, entry.hard)) -- guard: hold-extends-the-grant
  extend(job, entry, due, stands)
end
return finish('held', {fence = entry.fence, due = math.max(entry.due, stands), hard = entry.hard})
