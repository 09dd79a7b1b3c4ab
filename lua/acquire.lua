-- acquire: take a slot, or join the queue.
--
-- Guarantee: a newcomer never overtakes a waiter, and never makes one more than the limit. Asked again for the
-- same job it says where the job stands, and takes nothing: it looks in slots, queue and outbox first.
--
-- ARGV after the prelude's
--   4 job_id    string
--   5 user      string   '' = none, no cap
--   6 tool      string   '' = none; a label for people
--   7 lease_ms  integer  '' = the pool's
--   8 or_wait   0 or 1   0 = a free slot now, or nothing: it is not queued
--   9 by_gate   0 or 1   1 = gate starts it: it is granted from the queue, at once if a slot is free, and gate alone claims it
--   10 queue_ms  integer  '' = the pool's
--   11 presence_ms  integer  '' = none; else it is passed while its caller has not shown itself for so long. Not for by_gate
-- Replies
--   running     holds a slot and knows it (known, by_gate, ticket, queued_at, lease_ms, stood, lease_id, fence, granted_at,
--               due, hard; stood: how long the pool had stood still by its arrival, absent = 0)
--   granted     known only: holds a slot, not claimed yet (the same fields)
--   queued      waits, or by gate: has just been granted (known, by_gate, ticket, queued_at, lease_ms, stood)
--   unrecorded  its end stands in the outbox (ticket, queued_at, lease_ms): the recorder first, then SQL knows
--   user_busy   the user has as many live jobs as allowed (active: their job_ids); nothing was written
--   queue_full  nothing was written
--   user_queue_full  the user has as many waiting jobs as allowed; nothing was written
--   no_slot     no slot is free, and it was not to wait; nothing was written
--   torn        it holds a slot without an entry in jobs: the sweep mends that; nothing was written

begin(true)
local job, user, tool = ARGV[4], ARGV[5], ARGV[6]

local lease_ms = tonumber(ARGV[7]) or meta.lease_ms

-- A waiter has no lease: those fields are absent then.
local function stands(word, entry, known)
  return finish(word, {known = known, by_gate = entry.by_gate, ticket = entry.ticket, queued_at = entry.queued_at, lease_ms = entry.lease_ms, stood = entry.stood,
                       lease_id = entry.lease_id, fence = entry.fence, granted_at = entry.granted_at,
                       due = entry.due, hard = entry.hard})
end

local known = read(job)
show(job, known)
if known and not known.again then
  known.again = true -- from now on a first call that fails may not take it back (see undo)
  write(job, known)
end
local due = redis.call('ZSCORE', SLOTS, job)
if due then -- guard: acquire-finds-a-held-slot
  if not (known and known.lease_id) then return finish('torn', {}) end
  -- Its job has ended in SQL, and only its task still runs.
  -- guard: acquire-leaves-a-draining-slot
  if known.drains then return finish('unrecorded', {ticket = known.ticket, queued_at = known.queued_at, lease_ms = known.lease_ms}) end
  known.due = math.max(known.due, tonumber(due)) -- after an absence its grace stands in slots only
  return stands(known.claimed and 'running' or 'granted', known, true)
end
if known and place(job, known) then return stands('queued', known, true) end
local note = noted(job)
-- guard: acquire-finds-an-unrecorded-end
if note then return finish('unrecorded', {ticket = note[8], queued_at = now, lease_ms = lease_ms}) end

local from, to = '[' .. user .. '\31', '[' .. user .. '\31\255'
if user ~= '' and meta.max_active_per_user > 0 then
  if redis.call('ZLEXCOUNT', USERS, from, to) >= meta.max_active_per_user then
    local active = redis.call('ZRANGEBYLEX', USERS, from, to, 'LIMIT', 0, BOUND)
    for i, member in ipairs(active) do active[i] = string.sub(member, #user + 2) end
    return finish('user_busy', {active = active})
  end
end

-- After begin only waiters that are absent, set aside, or whose tool cools down, stand beside a free slot: they are passed, unless more
-- of them stand than one call looks at.
local next_in_line = waiting == 0 or (waiting <= BOUND and not more)
local free = ids_left() and may_grant()
             and next_in_line -- guard: newcomer-behind-waiters
if not free and ARGV[8] == '0' then return finish('no_slot', {}) end
if not free and waiting >= meta.queue_max then return finish('queue_full', {}) end

-- A user's live jobs hold a slot or wait. Slots are few, so those are counted that hold one.
local function waits_too_often()
  local waits = redis.call('ZLEXCOUNT', USERS, from, to)
  if waits < meta.queue_max_per_user then return false end
  for _, holder in ipairs(redis.call('ZRANGE', SLOTS, 0, -1)) do
    if redis.call('ZSCORE', USERS, user .. '\31' .. holder) then waits = waits - 1 end
    if waits < meta.queue_max_per_user then return false end
  end
  return true
end
-- guard: user-takes-not-the-whole-line
if not free and user ~= '' and meta.queue_max_per_user > 0 and waits_too_often() then return finish('user_queue_full', {}) end

local entry = {tool = tool ~= '' and tool or nil, user = user ~= '' and user or nil, queued_at = now,
               ticket = digits(redis.call('HINCRBY', META, 'ticket', 1)),
               lease_ms = lease_ms, by_gate = ARGV[9] == '1' or nil, queue_ms = tonumber(ARGV[10]), stood = stood(now) > 0 and stood(now) or nil}
if not entry.by_gate then entry.presence_ms = tonumber(ARGV[11]) end
if entry.presence_ms then entry.present_until = now + entry.presence_ms end
if free and not entry.by_gate then
  count_for_user(job, entry)
  grant(job, entry, true)
  return stands('running', entry, false)
end
admit(job, entry)
redis.call('RPUSH', QUEUE, job)
waiting = waiting + 1
return stands('queued', entry, false)
