-- claim: the holder of a grant says that it started; a full lease from now.
--
-- Guarantee: only the lease it names, only while it lives. A second claim changes nothing.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 lease_id  string
--   6 by_gate   0 or 1   1 = gate's own call, whose start call was answered
-- Replies
--   claimed     (fence, due, hard)
--   lost        not this job's lease, or no longer; nothing was changed
--   by_gate     gate starts this job, so no caller may claim it; nothing was changed

begin()
local job = ARGV[4]
local entry, stands = held(job, ARGV[5])
if not entry then return finish('lost', {}) end
-- guard: claim-not-what-gate-starts
if entry.by_gate and not entry.claimed and ARGV[6] ~= '1' then return finish('by_gate', {}) end
if entry.claimed then
  entry.due = math.max(entry.due, stands) -- grace may stand there
else
  entry.claimed = true
  extend(job, entry, math.min(now + entry.lease_ms, entry.hard), stands)
  -- Its start address works: the tool's other jobs are started again.
  -- mutant: no-tool-cooled
  if entry.by_gate and entry.tool and meta.tools_until > 0 then redis.call('HDEL', META, 'cool:' .. entry.tool) end
end
return finish('claimed', {fence = entry.fence, due = entry.due, hard = entry.hard})
