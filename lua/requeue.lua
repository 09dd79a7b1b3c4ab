-- requeue: from the slot back into the queue, at the place its ticket gives it.
--
-- Guarantee: moves only the grant of the fence it names; a newer grant of the same job stays. Nobody who came
-- later gets ahead. Runs after SQL has the job as queued.
--
-- ARGV after the prelude's
--   4 job_id   string
--   5 fence    integer  of the grant that goes back
--   6 why      word     refused = the provider would not take it: the pool cools down, doubling to at most 60 s
--                       tool_down = its tool's start address cannot be right: that tool alone cools down, likewise
--                       not_taken = SQL would not take the grant: the pool waits 1 s
--                       lost = Redis has no place for it any more: nothing cools down
--   7 restore  JSON     the entry to seat when Redis knows nothing of the job; '' = leave it unknown
-- Replies
--   requeued   it waits at its place (now, or it did already)
--   newer      it holds a slot under another fence; nothing was changed
--   absent     Redis knows nothing of it, and nothing was to be restored

begin()
local job, why, restore = ARGV[4], ARGV[6], ARGV[7]

local function cool_tool(tool)
  local till, times = cooled_until(tool), 0
  if till > now then return end -- several start calls of one moment were answered alike
  times = tonumber(string.match(redis.call('HGET', META, 'cool:' .. tool) or '', '%d+$')) or 0
  till = now + math.min(meta.cooldown_ms * 2 ^ math.min(times, 20), 60000)
  meta.tools_until = math.max(meta.tools_until, till)
  redis.call('HSET', META, 'cool:' .. tool, digits(till) .. ' ' .. digits(times + 1), 'tools_until', digits(meta.tools_until))
end

local function cool(entry)
  if why == 'lost' then return end
  if why == 'tool_down' and entry.tool then return cool_tool(entry.tool) end
  local wait = 1000
  if why == 'refused' then
    meta.refusals = meta.refusals + 1
    wait = math.min(meta.cooldown_ms * 2 ^ math.min(meta.refusals - 1, 20), 60000)
  end
  meta.cooling_until = math.max(meta.cooling_until, now + wait)
  redis.call('HSET', META, 'refusals', digits(meta.refusals), 'cooling_until', digits(meta.cooling_until))
end

local entry = read(job)
if redis.call('ZSCORE', SLOTS, job) then
  if entry and (entry.fence or '0') ~= ARGV[5] then return finish('newer', {}) end -- guard: requeue-only-its-fence
  if not entry then return finish('absent', {}) end
  cool(entry)
  vacate(job)
  unqueue(job) -- by an operator's hand it may stand in both
elseif entry and place(job, entry) then
  return finish('requeued', {})
elseif restore ~= '' then
  entry = cjson.decode(restore)
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
