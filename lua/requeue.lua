-- requeue: from the slot back into the queue, at the place its ticket gives it.
--
-- Guarantee: moves only the grant of the fence it names; a newer grant of the same job stays. No later
-- arrival gets ahead. Runs after SQL has the job as queued.
--
-- ARGV after the prelude's
--   4 job_id   string
--   5 fence    integer  of the grant that goes back
--   6 why      word     refused = the provider would not take it: the pool cools down, doubling to at most 60 s. After
--                                 refusals_before_passing of them the job is set aside, so that the next waiter is tried. A job that was
--                                 refused so often beside others that started cools down alone
--                       tool_down = its tool's start address cannot be right: that tool alone cools down, likewise
--                       not_taken = SQL would not take the grant: the pool waits 1 s
--                       lost = Redis has no place for it any more: nothing cools down
--   7 restore  JSON     the entry to seat when Redis knows nothing of the job, and its presence and stood in any case; '' = leave both as they are
--   8 at_least integer  shortest cool-down (ms) after refused and tool_down: what the tool asked for
-- Replies
--   requeued   it waits at its place (now, or it did already)
--   newer      it holds a slot under another fence; nothing was changed
--   absent     Redis knows nothing of it, and nothing was to be restored

begin()
local job, why, restore, at_least = ARGV[4], ARGV[6], ARGV[7], tonumber(ARGV[8])

-- Whether another job was granted a slot since then and has run for the length of a cool-down.
local function another_runs(since)
  for _, holder in ipairs(redis.call('ZRANGE', SLOTS, 0, BOUND - 1)) do
    local other = holder ~= job and read(holder)
    if other and other.claimed and other.granted_at >= since and other.granted_at + meta.cooldown_ms <= now then return true end
  end
  return false
end

-- Counts this refusal: in all, and in a row beside others that started. The provider takes jobs if a lease has ended since the pool cooled
-- down last, or since the job's last refusal. Returns whether the fault is the job's.
local function count(entry)
  local since = tonumber(entry.refused_at)
  local well_at = tonumber(redis.call('HGET', META, 'well_at')) or 0 -- when a lease ended in spite of a cool-down
  local well = since and (meta.refusals == 0 or well_at >= since or another_runs(since))
  entry.refused, entry.refused_at = (tonumber(entry.refused) or 0) + 1, now
  entry.beside = well and (tonumber(entry.beside) or 0) + 1 or 0 -- guard: full-provider-makes-no-poison
  entry.poison = entry.beside >= meta.refusals_before_passing or nil
  return entry.poison
end

local function cool_tool(tool)
  local till, times = cooled_until(tool), 0
  if till > now then return end -- several start calls of one moment were answered alike
  times = tonumber(string.match(redis.call('HGET', META, 'cool:' .. tool) or '', '%d+$')) or 0
  till = now + math.max(doubled(times), at_least)
  meta.tools_until = math.max(meta.tools_until, till)
  redis.call('HSET', META, 'cool:' .. tool, digits(till) .. ' ' .. digits(times + 1), 'tools_until', digits(meta.tools_until))
end

local function cool(entry)
  if why == 'lost' then return end
  if why == 'tool_down' and entry.tool then return cool_tool(entry.tool) end
  local wait, least, total = 1000, 1000, stood(now)
  if why == 'refused' then
    if count(entry) then
      entry.aside_until = now + math.max(doubled(entry.beside - meta.refusals_before_passing), at_least)
      meta.aside_until = math.max(meta.aside_until, entry.aside_until)
      return redis.call('HSET', META, 'aside_until', digits(meta.aside_until))
    end
    meta.refusals = meta.refusals + 1
    wait, least = math.max(doubled(meta.refusals - 1), at_least), at_least
  end
  meta.cooling_until = math.max(meta.cooling_until, now + wait)
  -- A change of settings makes no cool-down shorter than a tool has asked for, now or at an earlier refusal.
  least = math.max(now + least, tonumber(redis.call('HGET', META, 'cooling_least')) or 0)
  set_still(total, 'refusals', digits(meta.refusals), 'cooling_until', digits(meta.cooling_until), 'cooling_least', digits(least))
  if why == 'refused' and entry.refused >= meta.refusals_before_passing then
    entry.aside = entry.fence or ARGV[5]
    if meta.fresh_fence == 0 then
      meta.fresh_fence = tonumber(entry.aside) -- mutant: read-after-the-cool-down
      redis.call('HSET', META, 'fresh_fence', entry.aside)
    end
  end
end

local entry = read(job)
if redis.call('ZSCORE', SLOTS, job) then
  if entry and (entry.fence or '0') ~= ARGV[5] then return finish('newer', {}) end -- guard: requeue-only-its-fence
  if not entry then return finish('absent', {}) end
  cool(entry)
  if restore ~= '' then
    local as_sql = cjson.decode(restore)
    entry.presence_ms = as_sql.presence_ms -- guard: presence-is-that-of-sql
    entry.stood = as_sql.stood -- guard: held-time-counts-against-no-wait
  end
  vacate(job)
  unqueue(job) -- by an operator's hand it may stand in both
elseif entry and place(job, entry) then
  return finish('requeued', {})
elseif restore ~= '' then
  entry = cjson.decode(restore)
  if why == 'refused' and entry.refused then entry.refused = entry.refused - 1 end -- SQL has counted this refusal, and so does cool
  cool(entry)
  unqueue(job) -- a place without an entry in jobs is no place
else
  return finish('absent', {})
end
entry.lease_id, entry.claimed, entry.granted_at, entry.due, entry.hard, entry.fence = nil, nil, nil, nil, nil, nil
entry.passed, entry.present_until = nil, entry.presence_ms and now + entry.presence_ms or nil -- its caller has a new wait to show itself in
admit(job, entry)
seat(job, tonumber(entry.ticket))
return finish('requeued', {})
