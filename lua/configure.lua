-- configure: the pool's settings, as SQL has them.
--
-- Guarantee: no running job loses its lease; what the new settings allow happens before this returns. A longer max_hold_ms moves the hard
-- limits of leases that are held, a shorter one does not. That looks at each of them, and is rare. After a shorter cooldown_ms the cool-down
-- of the pool that is under way lasts no longer than one that begins now, or than a tool asked for.
--
-- ARGV after the prelude's
--   4 settings    JSON    the names of meta: limit, lease_ms, ..., paused: integers
-- Replies
--   configured

redis.call('HDEL', META, '') -- needs no memory: what follows is not refused then
mind_absence() -- guard: absence-counts-before-a-pause-ends
local was_paused, total, max_hold_ms, cooldown_ms = meta.paused, stood(now), meta.max_hold_ms, meta.cooldown_ms
for name, value in pairs(cjson.decode(ARGV[4])) do
  meta[name] = value
  redis.call('HSET', META, name, digits(value))
end
if meta.paused ~= was_paused then set_still(total) end
if meta.cooldown_ms < cooldown_ms then -- guard: shorter-cool-down-reaches-the-one-under-way
  local least = tonumber(redis.call('HGET', META, 'cooling_least')) or 0
  local till = math.max(now + doubled(meta.refusals - 1), least)
  if till < meta.cooling_until then
    total, meta.cooling_until = stood(now), till
    set_still(total, 'cooling_until', digits(till))
  end
end
begin()
if meta.max_hold_ms > max_hold_ms then -- guard: longer-hold-reaches-holders
  for _, job in ipairs(redis.call('ZRANGE', SLOTS, 0, -1)) do
    local entry = read(job)
    if entry and entry.hard and entry.granted_at + meta.max_hold_ms > entry.hard then
      entry.hard = entry.granted_at + meta.max_hold_ms
      write(job, entry)
    end
  end
end
return finish('configured', {})
