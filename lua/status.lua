-- status: the pool as it is now, and where one job stands in its line.
--
-- Guarantee: counts, holders and queue are of one moment.
--
-- ARGV after the prelude's
--   4 job_id  string   '' = none
--   5 most    integer  how many holders and waiters to name
--   6 shows   0, 1 or 2   1 = the caller of that job asks, so it is present; 2 = that job needs no presence any longer
-- Replies
--   status    limit, queue_ms, claim_ms, loaded_at, stood_ms (how long it stood still in all), refusals_before_passing, aside_until (the end
--             of the last cool-down of a job alone, or absent), running, granted, draining (slots of ended jobs whose tasks still run), queued, paused, cooling_until, oldest (granted_at in ms, or absent),
--             holders and queue (arrays of job_id), position (1 = next, or absent),
--             tools (tool -> ms until which it cools down, or absent),
--             down (tools whose last start failed within ten minutes of its cool-down, and none worked since; or absent),
--             away (those of the first thousand waiters named, and of that job, whose callers are absent; or absent)

begin()
if ARGV[6] ~= '0' and show(ARGV[4], read(ARGV[4]), ARGV[6] == '2') then promote() end -- guard: present-is-granted-at-once
local most = tonumber(ARGV[5])
local slots = redis.call('ZRANGE', SLOTS, 0, -1)
local granted, draining, oldest, holders = 0, 0, nil, {}
for _, job in ipairs(slots) do
  local entry = read(job)
  if entry and entry.drains then
    draining = draining + 1
  elseif #holders < most then
    holders[#holders + 1] = job
  end
  if entry and entry.granted_at and not entry.drains then
    if not entry.claimed then granted = granted + 1 end
    oldest = math.min(oldest or entry.granted_at, entry.granted_at)
  end
end
local tools -- that cool down, with their time; a JSON object, or absent
local down -- these, and those that could not be tried again since: every slot may be held
local down_ms = 600000 -- a failure that is older says nothing about a tool that had nothing to start meanwhile
if meta.tools_until > now - down_ms then
  local all = redis.call('HGETALL', META)
  for i = 1, #all, 2 do
    local tool = string.match(all[i], '^cool:(.*)$')
    local till = tool and tonumber(string.match(all[i + 1], '^%d+')) or 0
    if till > now then
      tools = tools or {}
      tools[tool] = till
    end
    if till > now - down_ms then
      down = down or {}
      down[#down + 1] = tool
    end
  end
end
local queue = most > 0 and redis.call('LRANGE', QUEUE, 0, most - 1) or {}
local asked = ARGV[4] ~= '' and read(ARGV[4])
local stands_at = ARGV[4] ~= '' and place(ARGV[4], asked)
local away
if meta.presences then
  for i = 1, math.min(#queue, 1000) do
    if absent(read(queue[i])) then away = away or {} away[#away + 1] = queue[i] end
  end
  if stands_at and absent(asked) then away = away or {} away[#away + 1] = ARGV[4] end
end
return finish('status', {
  limit = meta.limit, queue_ms = meta.queue_ms, stood_ms = stood(now), claim_ms = meta.claim_ms, loaded_at = meta.loaded_at,
  refusals_before_passing = meta.refusals_before_passing, aside_until = meta.aside_until > now and meta.aside_until or nil, running = #slots - granted - draining, granted = granted, draining = draining, queued = waiting,
  paused = meta.paused == 1, cooling_until = meta.cooling_until, oldest = oldest, holders = holders, queue = queue,
  position = stands_at and stands_at + 1 or nil, tools = tools, down = down, away = away})
