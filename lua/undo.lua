-- undo: take back an admission that SQL would not write.
--
-- Guarantee: only what the call of this ticket took, and only if no other call asked for the same job since: that call may be
-- answered already. Its entries in the outbox go too, because SQL has none of it. It reaps and promotes nothing: it runs
-- when SQL is away, and then nothing may be granted or ended.
--
-- ARGV after the prelude's
--   4 job_id   string
--   5 ticket   integer  that the admission gave
-- Replies
--   undone     nothing is left of it
--   kept       another call stands on it, or it is gone already; nothing was changed

local job = ARGV[4]
local entry = read(job)
if not entry
   or entry.ticket ~= ARGV[5] -- guard: undo-only-its-ticket
   or entry.again -- guard: undo-nothing-asked-again
then return answer('kept', {}) end
vacate(job)
unqueue(job, entry)
forget(job, entry)
for _, item in ipairs(redis.call('XRANGE', OUTBOX, '-', '+')) do
  if item[2][4] == job then redis.call('XDEL', OUTBOX, item[1]) end -- guard: undo-its-outbox-entries
end
return answer('undone', {})
