-- inspect: the pool in words, for people. Read-only; runs alone:
--   redis-cli --eval lua/inspect.lua '{default}'
--
-- Guarantee: writes nothing, whatever it finds.
--
-- KEYS 1 tag: the pool's name in braces, such as {default}
-- ARGV: none
-- Replies: lines of text: the pool, its slots with age and time left (OVERDUE when past), its queue in order

if not KEYS[1] then return {"say which pool: redis-cli --eval lua/inspect.lua '{default}'"} end
local tag = string.match(KEYS[1], '^{.*}$') or '{' .. KEYS[1] .. '}'
local function key(name) return 'gate:' .. tag .. ':' .. name end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lines = {}
local function say(...) lines[#lines + 1] = string.format(...) end

local function span(ms)
  local s = math.floor(math.abs(ms) / 1000)
  if s >= 3600 then return string.format('%dh %02dm', math.floor(s / 3600), math.floor(s % 3600 / 60)) end
  if s >= 60 then return string.format('%dm %02ds', math.floor(s / 60), s % 60) end
  return string.format('%ds', s)
end

local function entry(job)
  local ok, e = pcall(cjson.decode, redis.call('HGET', key('jobs'), job) or '')
  return ok and type(e) == 'table' and e or nil
end

local function who(e)
  if not e then return '(NO ENTRY in jobs)' end
  return 'tool ' .. tostring(e.tool or '-') .. ', user ' .. tostring(e.user or '-')
end

local meta = redis.call('HMGET', key('meta'), 'epoch', 'limit', 'paused', 'cooling_until', 'ahead_ms')
if not meta[1] then return {'pool ' .. tag .. ': nothing is here (no gate has loaded this pool)'} end
local ahead_ms = tonumber(meta[5]) or 0
now = now - ahead_ms
local slots = redis.call('ZRANGE', key('slots'), 0, -1, 'WITHSCORES')
local waiting = redis.call('LLEN', key('queue'))
say('pool %s: %d of %s slots held, %d waiting', tag, #slots / 2, tostring(meta[2]), waiting)
if #slots / 2 > (tonumber(meta[2]) or 0) then say('  draining: the limit was lowered below what runs') end
if meta[3] == '1' then say('  PAUSED: no slot is granted') end
-- mutant: cooled-to-the-millisecond
if (tonumber(meta[4]) or 0) > now then say('  cooling down for %s: the provider refused', span(meta[4] - now)) end
if ahead_ms ~= 0 then say('  the clock of Redis stepped: it is %s %s the pool', span(ahead_ms), ahead_ms > 0 and 'ahead of' or 'behind') end -- mutant: ahead-by-nothing
say('slots')
for i = 1, #slots, 2 do
  local e, left = entry(slots[i]), tonumber(slots[i + 1]) - now
  local age = e and tonumber(e.granted_at) and 'held for ' .. span(now - e.granted_at) or 'held'
  say('  %d. %s  %s, %s, %s, %s', (i + 1) / 2, slots[i], who(e), e and e.claimed and 'running' or 'granted, not claimed',
      age, left > 0 and span(left) .. ' left' or 'OVERDUE by ' .. span(left)) -- mutant: overdue-to-the-millisecond
end
if #slots == 0 then say('  none held') end
say('queue')
for i, job in ipairs(redis.call('LRANGE', key('queue'), 0, 99)) do
  local e = entry(job)
  say('  %d. %s  %s, waits for %s', i, job, who(e), e and tonumber(e.queued_at) and span(now - e.queued_at) or '?')
end
if waiting == 0 then say('  no job waits') end
if waiting > 100 then say('  and %d more', waiting - 100) end
say('outbox: %d not in SQL yet', redis.call('XLEN', key('outbox')))
return lines
