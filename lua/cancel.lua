-- cancel: jobs that have ended in SQL leave, from wherever they stand.
--
-- Guarantee: nothing of a job stays in slots, queue, jobs or users. A job_id is never used for a second job, so
-- no lease needs to be named. One that never was in SQL may come again, though: then only the place is meant that its
-- ticket gave it, and never a slot.
--
-- ARGV after the prelude's
--   4 job_id     string
--   5 ticket     integer  of the place that is meant; '' = wherever it stands
--   6 …          string   further jobs that leave, wherever they stand
-- Replies, about the first job
--   left_slot    it held a slot
--   left_queue   it waited
--   absent       it was not there, or its slot drains

local freed = false

local function leave(job)
  local entry = read(job)
  if entry and entry.drains then return 'absent' end -- guard: cancel-leaves-a-draining-slot
  local word = 'absent'
  if vacate(job) then
    word = 'left_slot'
    freed = true
  elseif unqueue(job, entry) then
    word = 'left_queue'
  end
  forget(job, entry)
  return word
end

begin()
local job, ticket = ARGV[4], ARGV[5]
local entry = read(job)
-- guard: stranger-leaves-by-ticket
if ticket ~= '' and (entry and entry.ticket ~= ticket or redis.call('ZSCORE', SLOTS, job)) then return finish('absent', {}) end
local word = leave(job)
for i = 6, #ARGV do leave(ARGV[i]) end
if freed then warm_up() end
return finish(word, {})
